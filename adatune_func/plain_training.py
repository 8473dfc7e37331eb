"""Plain training with the State and Info of a tuner: what baselines and benchmarks use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .curvature import Gradient
from .optimizers import Optimizer
from .recursion import Inner, phi
from .rules import snr
from .state import Info, Observed, Tuner, TunerState, checked, initial, settle
from .trees import (
    Batch,
    Buffers,
    HParams,
    LossFn,
    Params,
    Signal,
    all_finite,
    is_a,
    scalar_like,
    tree_map,
)


def plain(
    loss_fn: LossFn, optimizer: Optimizer, schedule: Callable[[Tensor], Tensor] | None = None
) -> Tuner:
    """Ordinary training with the same State and Info: nothing is tuned, there is no tangent.

    A step that is not finite is a null step, as in ``marthe``; lr stays as it is.

    What ``hparams`` holds overrides the optimizer's values for the run. With a ``schedule``,
    ``lr = schedule(t)`` for step t = 0, 1, ..., a 0-d tensor, whatever lr ``hparams`` holds; see
    the module ``schedules``.

    Raises:
        TypeError: at ``init``, for a schedule that returns anything but a 0-d tensor.
    """

    def init(
        params: Params, hparams: HParams | None = None, buffers: Buffers | None = None
    ) -> TunerState:
        state = initial(optimizer, params, hparams or {}, buffers)
        count = scalar_like(state.params, 0.0)
        hparams = state.hparams
        if schedule is not None:
            lr = schedule(count)
            if not is_a(lr, Tensor) or lr.ndim != 0:
                raise TypeError(
                    f"schedule must return a 0-d tensor, got {type(lr).__name__}; the module "
                    "schedules has constant, cosine and others"
                )
            hparams = {**hparams, "lr": lr}
        silence = snr.init(hparams, count)
        return state._replace(
            hparams=hparams, z=Inner({}, {}), hyper_state=count, snr_state=silence
        )

    def step(state: TunerState, batch: Batch, val_batch: Batch = None) -> tuple[TunerState, Info]:
        if not is_a(state.hyper_state, Tensor):
            raise ValueError("this state is one of a tuner's, not of plain: start from init")
        with torch.no_grad():
            grads, (loss, buffers) = Gradient(loss_fn, state.buffers)(state.params, batch)
            u = phi(optimizer, grads, Inner(state.params, state.opt_state), state.hparams)
            candidate = state._replace(params=u.params, opt_state=u.opt_state, buffers=buffers)
            silent = tree_map(torch.zeros_like, state.hparams)
            observed = Observed(
                loss=loss,
                val_loss=loss,
                signal=Signal(silent, silent),
                mu=torch.zeros_like(loss),
                faulty=~all_finite(loss, grads),
                tainted=~all_finite(batch),
            )
            kept, info = settle(state, candidate, observed, None, None)
            count = state.hyper_state + 1  # null steps count, too: a schedule has an end
            if schedule is not None:
                kept = kept._replace(hparams={**kept.hparams, "lr": schedule(count)})
            return kept._replace(hyper_state=count), info

    return Tuner(init, checked(step))
