"""When to tune and when only to train: lr needs to be found, then watched, not derived each step.

    tune at t  ⇔  t < first   or   (t - first) mod every ≥ every - length

The exact step costs four plain ones, so a long run costs ``1 + 3 length / every`` plain ones a
step: 1.6 with (200, 50, 250). A window starts with Z = 0, as a tuned step after a plain one does,
and goes on with the hyperparameters and with what their rule remembers.

Which step is due hangs on t alone, a Python int: two graphs, no branch inside one, and a run that
is resumed at t goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from .state import Info, Tuner, TunerState
from .trees import Batch, type_name

#: ``due(t) -> bool``: whether step t, counted from 0, tunes.
Due: TypeAlias = Callable[[int], bool]

#: ``step(t, state, batch, val_batch) -> (state, info)``.
StepAt: TypeAlias = Callable[..., tuple[TunerState, Info]]


def windows(first: int, length: int, every: int) -> Due:
    """Tune for ``first`` steps, then in the last ``length`` of each ``every`` steps.

    Raises:
        ValueError: unless they are whole numbers with 0 ≤ first and 0 ≤ length ≤ every ≥ 1.

    >>> due = windows(first=2, length=1, every=3)
    >>> "".join("T" if due(t) else "." for t in range(11))
    'TT..T..T..T'
    """
    numbers = {"first": first, "length": length, "every": every}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"{name} must be a whole number from 0 up, got {value!r}")
    if not 1 <= every >= length:
        raise ValueError(f"length must be at most every, and every at least 1, got {numbers}")
    return lambda t: t < first or (t - first) % every >= every - length


def windowed(
    tuner: Tuner, due: Due, wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda fn: fn
) -> StepAt:
    """``step(t, state, batch, val_batch)``: ``tuner.step`` where it is due, else ``tuner.train``.

    Args:
        due: whether step t tunes, such as ``windows(200, 50, 250)``.
        wrap: what compiles a step, such as ``jit``; applied to both.

    >>> import torch
    >>> import adatune_func as atf
    >>> tuner = atf.marthe(lambda p, b, x: ((p["w"] * x - 0.01).square(), b), atf.sgd())
    >>> state, one = tuner.init({"w": torch.zeros(())}, {"lr": 0.1}), torch.ones(())
    >>> step, moved = windowed(tuner, windows(first=0, length=1, every=3)), []
    >>> for t in range(3):
    ...     state, info = step(t, state, one, one)
    ...     moved.append(bool(state.hparams["lr"] != 0.1))
    >>> moved
    [False, False, True]
    """
    tune, train = wrap(tuner.step), wrap(tuner.train)

    def step(t: int, state: TunerState, batch: Batch, *val_batch: Batch) -> tuple[TunerState, Info]:
        if not isinstance(t, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                "step(t, state, batch, val_batch) begins with the step's number, an int counted "
                f"from 0, got {type_name(t)}"
            )
        return tune(state, batch, *val_batch) if due(t) else train(state, batch)

    return step
