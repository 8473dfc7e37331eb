"""Steps that only train, with the State and Info of a tuner: ``tuner.train``, and ``plain``.

u ← Phi(u, η) ;    η, the states of its rule and of mu, and Z stay as they are
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .curvature import Gradient, at_values
from .optimizers import Optimizer
from .recursion import Inner, phi
from .replicas import together
from .rules import HyperUpdate, snr
from .state import Info, Observed, Tuner, TunerState, checked, initial, settle
from .trees import (
    Batch,
    Buffers,
    HParams,
    LossFn,
    Mean,
    Params,
    Signal,
    all_finite,
    alone,
    check_kind,
    is_a,
    scalar_like,
    tree_map,
)


def trained(
    loss_fn: LossFn,
    optimizer: Optimizer,
    rule: HyperUpdate | None,
    state: TunerState,
    batch: Batch,
    mean: Mean = alone,
) -> tuple[TunerState, Info]:
    """One step of training at the price of one; what it saw is told as if h were 0.

    The guard is that of a tuned step but for the outer loss, which is not taken: what is not finite
    is a null step, and so is one that is too long for ``rule``, which then lowers a tuned lr.
    """
    grad_fn = Gradient(at_values(loss_fn, state.hparams), state.buffers)
    grads, (loss, buffers) = grad_fn(state.params, batch)
    seen = grads, loss, ~all_finite(batch)
    (grads, loss, tainted), buffers = together(mean, seen, buffers, state.buffers)
    u = phi(optimizer, grads, Inner(state.params, state.opt_state), state.hparams)
    still = state._replace(z=Inner({}, {}))  # as it is: not to be looked at, nor copied
    candidate = still._replace(
        params=u.params,
        opt_state=u.opt_state,
        buffers=buffers,
        tuning=torch.zeros_like(state.tuning),
    )
    zeros, ones = (tree_map(like, state.hparams) for like in (torch.zeros_like, torch.ones_like))
    observed = Observed(
        loss=loss,
        val_loss=loss,
        signal=Signal(zeros, zeros, zeros, ones),
        snr=zeros,
        mu=torch.zeros_like(loss),
        kept=ones,
        faulty=~all_finite(loss, grads),
        tainted=tainted,
    )
    kept, info = settle(still, candidate, observed, None, rule)
    return kept._replace(z=state.z), info


def plain(
    loss_fn: LossFn,
    optimizer: Optimizer,
    schedule: Callable[[Tensor], Tensor] | None = None,
    *,
    mean: Mean = alone,
) -> Tuner:
    """Ordinary training with the same State and Info: nothing is tuned, there is no tangent.

    A step that is not finite is a null step, as in ``marthe``; lr stays as it is.

    What ``hparams`` holds overrides the values of optimizer and loss for the run. With a
    ``schedule``, ``lr = schedule(t)`` for step t = 0, 1, ..., a 0-d tensor, whatever lr ``hparams``
    holds; see the module ``schedules``. ``mean=replicas.mean()``: one run on many devices.

    Raises:
        TypeError: at ``init``, for a schedule that returns anything but a 0-d tensor.
    """

    def init(
        params: Params, hparams: HParams | None = None, buffers: Buffers | None = None
    ) -> TunerState:
        check_kind("mean", mean, Callable, "replicas.mean()")
        state = initial(loss_fn, optimizer, params, hparams or {}, buffers)
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
        with checked(state), torch.no_grad():
            if not is_a(state.hyper_state, Tensor):
                raise ValueError("this state is one of a tuner's, not of plain: start from init")
            kept, info = trained(loss_fn, optimizer, None, state, batch, mean)
            count = state.hyper_state + 1  # null steps count, too: a schedule has an end
            if schedule is not None:
                kept = kept._replace(hparams={**kept.hparams, "lr": schedule(count)})
            return kept._replace(hyper_state=count), info

    return Tuner(init, step, step)
