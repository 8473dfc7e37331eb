"""A run's end, chosen while it runs, and the lr that its steps use."""

from __future__ import annotations

from typing import Any

from .optimizers import begin_cooling, factor_of
from .state import TunerState
from .trees import tree_map


def cool_down(state: TunerState, steps: int) -> TunerState:
    """``state`` of a run that ends ``steps`` from now: lr falls linearly to 0 until then.

    For an optimizer inside ``scheduled``; its own shape goes on and is multiplied. Pure, and part
    of the state: a run resumed from it cools down further. Nothing compiles again. Called again it
    begins again, from the shape's height.

    Source: Hägele et al. 2024 (arXiv 2405.18392): constant, then a cool-down at any time.

    Raises:
        ValueError: without ``scheduled`` in the run's optimizer, and for ``steps`` below 1.
    """
    return state._replace(opt_state=begin_cooling(state.opt_state, steps))


def effective_lr(state: TunerState) -> Any:
    """The lr of the next step: the scale in ``hparams`` times the shape of ``scheduled``.

    A 0-d tensor, or a dict of them where lr is one; reading it as a float waits for the device.

    Raises:
        KeyError: where ``hparams`` of the run has no lr.
        ValueError: without ``scheduled`` in the run's optimizer.
    """
    factor = factor_of(state.opt_state)
    if "lr" not in state.hparams:
        raise KeyError("hparams of this run have no lr: give lr to init, of `plain` as well")
    return tree_map(lambda lr: factor * lr, state.hparams["lr"])
