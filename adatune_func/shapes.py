"""How lr goes along a run, as a factor of a scale that is tuned: ``lr · shape(t)``.

A shape is a schedule (module ``schedules``) of height 1, for ``scheduled(optimizer, shape)``. Any
function of the step as a 0-d tensor is one, if it gives a 0-d tensor.
"""

from __future__ import annotations

import math

from . import schedules
from .schedules import Schedule


def cooldown(steps: int, last: float = 0.2) -> Schedule:
    """1, then over the last part of ``steps`` linearly to 0: :func:`schedules.cooldown`.

    >>> [round(cooldown(10)(step), 3) for step in (0, 8, 9, 10)]
    [1.0, 1.0, 0.5, 0.0]
    """
    return schedules.cooldown(1.0, steps, last)


def linear(steps: int) -> Schedule:
    """``1 - t / steps``, then 0. Source: Defazio et al. 2023, arXiv 2310.07831.

    >>> [linear(4)(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    return schedules.cooldown(1.0, steps, last=1.0)


def cosine(steps: int) -> Schedule:
    """``(1 + cos(π t / steps)) / 2``, then 0: :func:`schedules.cosine`."""
    return schedules.cosine(1.0, steps)


def warmup(steps: int) -> Schedule:
    """``min(1, (t + 1) / steps)``: :func:`schedules.warm_up` of a constant."""
    return schedules.warm_up(schedules.constant(1.0), steps)


def product(*shapes: Schedule) -> Schedule:
    """All of them at once: a warm-up and a cool-down, say.

    >>> shape = product(warmup(4), cooldown(10))
    >>> [shape(step) for step in (0, 3, 9)]
    [0.25, 1.0, 0.5]
    """
    return lambda step: math.prod(shape(step) for shape in shapes)
