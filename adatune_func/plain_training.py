"""Plain training with the State and Info of a tuner: what baselines and benchmarks use."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import snr
from .discount import scalar_like
from .hyper_update import Signal
from .optimizers import Optimizer
from .recursion import Inner, gradient_of
from .state import Info, Tuner, TunerState, initial, settle
from .trees import all_finite, tree_map
from .types import Batch, Buffers, HParams, LossFn, Params


def plain(
    loss_fn: LossFn, optimizer: Optimizer, schedule: Callable[[Tensor], Tensor] | None = None
) -> Tuner:
    """Ordinary training with the same State and Info: nothing is tuned, there is no tangent.

    What ``hparams`` holds overrides the optimizer's values for the run. With a ``schedule``,
    ``lr = schedule(t)`` for step t = 0, 1, ..., a 0-d tensor; see the module ``schedules``.
    """

    def init(
        params: Params, hparams: HParams | None = None, buffers: Buffers | None = None
    ) -> TunerState:
        state = initial(optimizer, params, hparams or {}, buffers)
        count = scalar_like(state.params, 0.0)
        hparams = state.hparams if schedule is None else {**state.hparams, "lr": schedule(count)}
        silence = snr.init(hparams, count)
        return state._replace(
            hparams=hparams, z=Inner({}, {}), hyper_state=count, snr_state=silence
        )

    def step(state: TunerState, batch: Batch, val_batch: Batch = None) -> tuple[TunerState, Info]:
        with torch.no_grad():
            grads, (loss, buffers) = gradient_of(loss_fn, state.buffers)(state.params, batch)
            hparams = {**optimizer.hparams, **state.hparams}
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params, hparams)
            count = state.hyper_state + 1
            moved = state._replace(
                params=tree_map(torch.add, state.params, updates),
                buffers=buffers,
                opt_state=opt_state,
                hparams=state.hparams
                if schedule is None
                else {**state.hparams, "lr": schedule(count)},
                hyper_state=count,
            )
            silent = tree_map(torch.zeros_like, state.hparams)
            info = (loss, loss, Signal(silent, silent), torch.zeros_like(loss))
            return settle(state, moved, info, ~all_finite(batch, loss, grads), (), math.inf)

    return Tuner(init, step)
