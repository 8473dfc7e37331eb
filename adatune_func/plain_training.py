"""Plain training with the State and Info of a tuner: what baselines and benchmarks use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import snr
from .optimizers import Optimizer
from .recursion import Gradient, Inner
from .state import Info, Tuner, TunerState, initial, settle
from .trees import all_finite, scalar_like, tree_map
from .types import Batch, Buffers, HParams, LossFn, Params, Signal


def plain(
    loss_fn: LossFn, optimizer: Optimizer, schedule: Callable[[Tensor], Tensor] | None = None
) -> Tuner:
    """Ordinary training with the same State and Info: nothing is tuned, there is no tangent.

    A step that is not finite is a null step, as in ``marthe``; lr stays as it is.

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
            grads, (loss, buffers) = Gradient(loss_fn, state.buffers)(state.params, batch)
            hparams = {**optimizer.hparams, **state.hparams}
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params, hparams)
            params = tree_map(torch.add, state.params, updates)
            candidate = state._replace(params=params, buffers=buffers, opt_state=opt_state)
            silent = tree_map(torch.zeros_like, state.hparams)
            shown = (loss, loss, Signal(silent, silent), torch.zeros_like(loss))
            faulty = ~all_finite(batch, loss, grads)
            kept, info = settle(state, candidate, shown, faulty, None, None)
            count = state.hyper_state + 1  # null steps count, too: a schedule has an end
            if schedule is not None:
                kept = kept._replace(hparams={**kept.hparams, "lr": schedule(count)})
            return kept._replace(hyper_state=count), info

    return Tuner(init, step)
