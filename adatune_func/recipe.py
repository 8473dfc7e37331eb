"""A run from any start, without a grid: what works on its own put together, constants and all.

    when to tune      windows (200, 50, 250): lr is found, then watched, 1.6 plain steps a step
    where to judge    an average of the last 20 weights, so that h does not ask for less lr than the
                      run needs; validation loss, guard and h all refer to it
    the end           lr falls to 0 over the last fifth, which no h can see the use of
    whom to believe   h at the average and h at the weights, as far as the two agree: the one wants
                      too much lr, the other too little (:mod:`~adatune_func.rules.relative_rule`)
    what to believe   a tangent no longer than its path; else training expands: Z begins again and
                      lr steps back by a tenth (:mod:`~adatune_func.rules.bound`)

The constants were fixed once, on the tasks of ``benchmarks/studies/recipe.py``, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from . import schedules, shapes
from .functional import averages, recalibrate
from .optimizers import Optimizer, averaged, scheduled
from .rules import begin_again, relative
from .state import Tuner, TunerState
from .trees import Batch, LossFn
from .tuner import marthe
from .windows import Due, StepAt, windowed, windows


class Recipe(NamedTuple):
    """A run as functions.

    Attributes:
        init: ``init(params, hparams, buffers) -> TunerState``, as that of a tuner.
        step: ``step(t, state, batch, val_batch) -> (TunerState, Info)``, t counted from 0.
        model: ``model(state, batches=None) -> TunerState`` with the weights to use, for
            ``write_back``; training batches recalibrate BatchNorm's running statistics to them.
        tuner: what the steps are of.
        due: which of them tune.
    """

    init: Callable[..., TunerState]
    step: StepAt
    model: Callable[..., TunerState]
    tuner: Tuner
    due: Due


def recipe(
    loss_fn: LossFn,
    optimizer: Optimizer,
    steps: int | None = None,
    *,
    due: Due = windows(200, 50, 250),
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda fn: fn,
    **options: Any,
) -> Recipe:
    """``marthe`` in windows, bounded, judged at an average, with a cool-down at the end.

    A run is its state and t: saved beside each other they go on as if nothing had happened. The
    model is that at the average, where h and ``info.val_loss`` are taken and the guard looks. At
    the end of a cool-down it is the parameters but for little; before that the running statistics
    of BatchNorm are those of the parameters, and ``model(state, batches)`` makes new ones.

    Args:
        steps: of the run; ``None`` where it is open: ``cool_down(state, n)`` ends it in n steps.
        due: which steps tune.
        wrap: what compiles a step, such as ``jit``.
        options: of :func:`marthe`, in place of the recipe's.

    >>> import torch
    >>> import adatune_func as atf
    >>> run = recipe(lambda p, b, x: ((p["w"] - x).square(), b), atf.sgd(), steps=1000)
    >>> state = run.init({"w": torch.zeros(())}, {"lr": 1e-6})
    >>> for t in range(1000):
    ...     state, info = run.step(t, state, torch.tensor(0.1), torch.tensor(0.1))
    >>> print(f"{float(run.model(state).params['w']):.3f}")
    0.100
    """
    defaults: dict[str, Any] = {"bound": begin_again(), "hyper_update": relative(halving=200.0)}
    shape = schedules.constant(1.0) if steps is None else shapes.cooldown(steps)
    tuner = marthe(loss_fn, averaged(scheduled(optimizer, shape)), **defaults | options)

    def model(state: TunerState, batches: Iterable[Batch] | None = None) -> TunerState:
        state = averages(state)
        return state if batches is None else recalibrate(loss_fn, state, batches)

    return Recipe(tuner.init, windowed(tuner, due, wrap), model, tuner, due)
