"""Learning-rate schedules as pure functions of the step, counted from 0: the baselines to beat.

A schedule takes a Python int and gives a float, or a 0-d tensor and gives a 0-d tensor on the same
device without a host sync, so it may live in a compiled step. An integer tensor gives torch's
default floating dtype, a floating one its own. Every factory checks its numbers when it is called.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Step = int | Tensor
Schedule = Callable[[Step], float | Tensor]


def constant(lr: float) -> Schedule:
    """η(t) = lr.

    >>> constant(0.1)(1000)
    0.1
    """
    return staircase(lr, every=1, decay=1.0)


def staircase(lr: float, every: int, decay: float) -> Schedule:
    """η(t) = lr · decay^⌊t / every⌋, as torch's StepLR.

    >>> [staircase(1.0, every=2, decay=0.5)(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    _check_rate("lr", lr)
    _check_count("every", every)
    _check(decay > 0, f"decay must be positive, not {decay}")
    return lambda step: lr * _power(decay, step // every)


def milestones(lr: float, at: Sequence[int], decay: float) -> Schedule:
    """η(t) = lr · decay^k where k of the steps `at` are at or before t, as torch's MultiStepLR.

    >>> schedule = milestones(1.0, at=(60, 120), decay=0.5)
    >>> schedule(59), schedule(60), schedule(120)
    (1.0, 0.5, 0.25)
    """
    _check_rate("lr", lr)
    _check(decay > 0, f"decay must be positive, not {decay}")
    # Counting from 0 * step, not from 0, keeps the step's dtype.
    return lambda step: lr * _power(decay, sum((step >= milestone for milestone in at), 0 * step))


def exponential(lr: float, decay: float, every: int = 1) -> Schedule:
    """η(t) = lr · decay^⌊t / every⌋: a staircase of many small steps, one an epoch, say.

    >>> exponential(1.0, decay=0.5)(3)
    0.125
    """
    return staircase(lr, every, decay)


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """η(t) = final + (lr - final) (1 + cos(π t / steps)) / 2 up to `steps`, then `final`.

    Source: Loshchilov and Hutter 2017 (arXiv 1608.03983), equation 5 with a single run.

    >>> [round(cosine(1.0, steps=4)(step), 3) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """
    _check_rate("lr", lr)
    _check_rate("final", final)
    _check_count("steps", steps)
    return lambda step: _half_cosine(lr, final, _at_most(step / steps, 1.0))


def cooldown(lr: float, steps: int, last: float = 0.2) -> Schedule:
    """η(t) = lr min(1, (1 - t / steps) / last) from `steps` on 0: constant, then linear to nothing.

    Args:
        last: the part of `steps` that cools down, in (0, 1]; at 1 the line starts at once.

    Source: Hägele et al. 2024 (arXiv 2405.18392): as good as a cosine, and the end may be chosen
    late.

    >>> [round(cooldown(1.0, steps=10, last=0.4)(step), 3) for step in (0, 6, 7, 9, 10, 99)]
    [1.0, 1.0, 0.75, 0.25, 0.0, 0.0]
    """
    _check_rate("lr", lr)
    _check_count("steps", steps)
    _check(0 < last <= 1, f"last must lie in (0, 1], not {last}")
    return lambda step: lr * _at_most((steps - _at_most(step, steps)) / (last * steps), 1.0)


def cosine_restarts(lr: float, t_0: int, t_mult: int = 2, final: float = 0.0) -> Schedule:
    """SGDR: cosine runs from lr towards `final`, of t_0, t_0 · t_mult, t_0 · t_mult², ... steps.

    Run n starts at step s_n = t_0 (1 + t_mult + ... + t_mult^(n-1)), and until the next one starts

        η(t) = final + (lr - final) (1 + cos(π (t - s_n) / (t_0 · t_mult^n))) / 2,

    all in steps: for runs in epochs, as in the paper, multiply t_0 by the batches of an epoch.

    Source: Loshchilov and Hutter 2017 (arXiv 1608.03983), equation 5.

    >>> schedule = cosine_restarts(1.0, t_0=2, t_mult=2)
    >>> [round(schedule(step), 3) for step in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """
    _check_rate("lr", lr)
    _check_rate("final", final)
    _check_count("t_0", t_0)
    _check_count("t_mult", t_mult)

    def schedule(step: Step) -> float | Tensor:
        run = _run_of(step, t_0, t_mult)
        length = t_0 * t_mult**run
        return _half_cosine(lr, final, (step - _start_of(run, t_0, t_mult)) / length)

    return schedule


def warm_up(schedule: Schedule, steps: int) -> Schedule:
    """η(t) = schedule(t) · min(1, (t + 1) / steps): a linear start, full from step `steps - 1` on.

    The first step is 1/steps of the schedule's, not nothing.

    Source: Goyal et al. 2017 (arXiv 1706.02677), section 2.2.

    >>> [warm_up(constant(1.0), steps=4)(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    _check_count("steps", steps)
    return lambda step: schedule(step) * _at_most((step + 1) / steps, 1.0)


def _start_of(run: Step, t_0: int, t_mult: int) -> Step:
    if t_mult == 1:
        return t_0 * run
    return t_0 * (t_mult**run - 1) // (t_mult - 1)


def _run_of(step: Step, t_0: int, t_mult: int) -> Step:
    """The n with s_n ≤ step < s_{n+1}, exactly.

    t_mult^n ≤ 1 + step (t_mult - 1) / t_0 < t_mult^(n+1), so n is a logarithm rounded down. Rounded
    down from half a run before, it is n or n - 1 whatever the logarithm's rounding error, and
    integers decide which.
    """
    if t_mult == 1:
        return step // t_0
    runs = _log(1 + step * (t_mult - 1) / t_0) / math.log(t_mult)
    n_or_one_less = _floor_at_0(runs - 0.5)
    return n_or_one_less + (step >= _start_of(n_or_one_less + 1, t_0, t_mult))


def _half_cosine(lr: float, final: float, done: float | Tensor) -> float | Tensor:
    """From lr at `done` = 0 to final at 1."""
    return final + (lr - final) * (1 + _cos(math.pi * done)) / 2


def _power(base: float, exponent: Step) -> float | Tensor:
    """base^exponent; through e, as float32 would round `base` before the exponent multiplies it."""
    if isinstance(exponent, Tensor):
        return torch.exp(exponent * math.log(base))
    return base**exponent


def _cos(x: float | Tensor) -> float | Tensor:
    return torch.cos(x) if isinstance(x, Tensor) else math.cos(x)


def _log(x: float | Tensor) -> float | Tensor:
    return torch.log(x) if isinstance(x, Tensor) else math.log(x)


def _floor_at_0(x: float | Tensor) -> Step:
    return x.floor().clamp(min=0).long() if isinstance(x, Tensor) else max(math.floor(x), 0)


def _at_most(x: Step | float, limit: float) -> float | Tensor:
    return x.clamp(max=limit) if isinstance(x, Tensor) else min(x, limit)


def _check(valid: bool, otherwise: str) -> None:
    if not valid:
        raise ValueError(otherwise)


def _check_rate(name: str, rate: float) -> None:
    _check(0 <= rate < math.inf, f"{name} must be a finite number from 0 up, not {rate}")


def _check_count(name: str, count: object) -> None:
    _check(
        isinstance(count, int) and count >= 1,
        f"{name} must be a whole number from 1 up, not {count}",
    )
