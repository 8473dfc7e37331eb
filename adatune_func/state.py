"""What a run carries from step to step, what it shows, and which of two states comes next.

A step makes a candidate; :func:`settle` returns it, or the state before it, a tuned lr lowered:

    state ← candidate    where the guard accepts it
            state        else: a null step, which takes time only: its schedule goes on

Nothing else decides what a run's numbers become, so that none that is not finite gets into one;
rules and discounts see to that for their own, and for what they make of the hyperparameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import guard
from .curvature import own_hparams
from .guard import GuardState
from .optimizers import Optimizer, checked_hparams, ticked
from .recursion import Inner, discounted
from .rules import HyperUpdate, SnrState, Trail, snr
from .trees import (
    Batch,
    Buffers,
    HParams,
    LossFn,
    Params,
    PyTree,
    Signal,
    all_finite,
    autocast_dtype,
    check_kind,
    checked_buffers,
    checked_params,
    checked_state,
    columns,
    dot,
    is_a,
    is_compiling,
    scalar_like,
    tree_leaves,
    tree_map,
    type_name,
    where,
)


class TunerState(NamedTuple):
    """All that the next step needs, and nothing else: a pytree of tensors, none requiring grad."""

    params: Params
    buffers: Buffers
    opt_state: PyTree
    hparams: HParams
    z: Inner  # the tangent of (params, opt_state), K columns on dim 0 of each leaf
    mu_state: Any
    hyper_state: Any
    guard_state: GuardState
    snr_state: SnrState
    trail: Trail  # of each column of Z: the path it came and its age, see rules.bound
    tuning: Tensor  # 1, or 0 after a step that only trained: Z is of no use then and is forgotten


class Info(NamedTuple):
    """What one may look at after a step: 0-d tensors, or trees of them shaped as hparams."""

    loss: Tensor  # training loss at the parameters before the step
    val_loss: Tensor  # outer loss; with "next_batch" it is the training loss
    hypergrads: HParams
    cosine: HParams  # of the outer gradient and Z
    snr: HParams  # of the cosine over about 100 steps: |mean| / standard deviation; noise: 0.07
    mu: Tensor  # the discount used in this step
    accepted: Tensor  # bool: False after a null step
    z_reset: HParams  # bool: this column of Z was not finite and starts again from 0
    kept: HParams  # share of each column of Z that its bound left: 1 all of it, 0 begun again


class Tuner(NamedTuple):
    """A run as three functions; the last two leave the state they are given as it is.

    Attributes:
        init: ``init(params, hparams, buffers) -> TunerState``.
        step: ``step(state, batch, val_batch) -> (TunerState, Info)``, which trains and tunes.
        train: ``train(state, batch) -> (TunerState, Info)``, which only trains.
    """

    init: Callable[..., TunerState]
    step: Callable[..., tuple[TunerState, Info]]
    train: Callable[[TunerState, Batch], tuple[TunerState, Info]]


def checked(state: Any) -> AbstractContextManager[None]:
    """Where a step runs, which says so when it is given what no ``init`` of its tuner made.

    Raises:
        TypeError: under float16 autocast; for what is no state, for a hyperparameter that is no
            tensor, and for the state of another optimizer, rule or mu.
    """
    if is_compiling():
        return nullcontext()
    if not is_a(state, TunerState):
        raise TypeError(
            f"step takes the state that init returns, got {type_name(state)}; step itself returns "
            "(state, info)"
        )
    if torch.float16 in map(autocast_dtype, ("cpu", "cuda")):
        raise TypeError(
            "a step under float16 autocast loses gradients below 6e-8, which is why others scale "
            "the loss; take torch.bfloat16, which needs none"
        )
    for leaf in tree_leaves(state.hparams):
        if not is_a(leaf, Tensor):
            raise TypeError(
                f"a state holds hyperparameters as 0-d tensors, found {type_name(leaf)} {leaf!r}; "
                "take torch.full_like of the one before"
            )
    return _of_its_own(state)


@contextmanager
def _of_its_own(state: TunerState) -> Generator[None, None, None]:
    try:
        yield
    except (AttributeError, TypeError) as error:
        found = getattr(error, "obj", None)
        strange = type_name(found)
        # only states of optimizers and rules: a Tensor that lacks a name is the loss's affair
        if hasattr(found, "_fields") and strange in map(
            type_name, (state.opt_state, state.mu_state, state.hyper_state)
        ):
            raise TypeError(
                f"this state holds a {strange}, which is not of this tuner: it comes "
                "from another optimizer, rule or mu; start from this tuner's init"
            ) from error
        raise


def initial(
    loss_fn: LossFn,
    optimizer: Optimizer,
    params: Params,
    hparams: HParams,
    buffers: Buffers | None,
    z_dtype: torch.dtype | None = None,
) -> TunerState:
    """A state before the first step, all checks done; the states of mu and of the rule are ()."""
    check_kind("optimizer", optimizer, Optimizer, "an Optimizer such as sgd() or adam()")
    params = checked_params(params)
    hparams = checked_hparams(hparams, optimizer, params, own_hparams(loss_fn))
    opt_state = checked_state(optimizer.init(params))
    count, zero = len(tree_leaves(hparams)), scalar_like(params, 0.0)
    return TunerState(
        params=params,
        buffers=checked_buffers(buffers),
        opt_state=opt_state,
        hparams=hparams,
        z=columns.zeros(Inner(params, opt_state), count, z_dtype),
        mu_state=(),
        hyper_state=(),
        guard_state=guard.init(params),
        snr_state=snr.init(hparams, zero),
        trail=Trail(zero.repeat(count), zero.repeat(count)),
        tuning=torch.ones_like(zero),
    )


def remembered(state: TunerState, share: Tensor) -> TunerState:
    """``state`` with that share of Z and of its trail: mu of them, or none after a plain step.

    Z, which may lie there in fewer bits, is as wide as what it is the tangent of.
    """
    z = tree_map(_as_wide_as, state.z, Inner(state.params, state.opt_state))
    return state._replace(z=discounted(share, z), trail=discounted(share, state.trail))


class Observed(NamedTuple):
    """What a step saw, whatever becomes of its candidate; the first half of :class:`Info`."""

    loss: Tensor
    val_loss: Tensor
    signal: Signal
    snr: HParams
    mu: Tensor
    kept: HParams
    faulty: Tensor  # bool, 0-d: a number of loss and gradient is not finite
    tainted: Tensor  # bool, 0-d: a number of the batches is not finite, as in a mask of -inf


class Outcome(NamedTuple):
    """How a candidate does on the outer loss; ``None`` where only the next step will know."""

    grads: Params  # of the outer loss, where the optimizer wants to be judged
    step: Params  # by which that place moved


def settle(
    state: TunerState,
    candidate: TunerState,
    observed: Observed,
    outcome: Outcome | None,
    rule: HyperUpdate | None,
) -> tuple[TunerState, Info]:
    """``candidate`` if the guard accepts it, else ``state``, with a lower lr if lr is to blame.

    ``rule`` is ``None`` where nothing is tuned: only a tuned lr is lowered.
    """
    loss, val_loss, signal, ratio, mu, share_kept, faulty, tainted = observed
    buffers = tree_map(_as_finite_as, candidate.buffers, state.buffers)
    finite = all_finite(candidate.params, buffers, candidate.opt_state, val_loss, outcome)
    faulty = faulty | (tainted & ~finite)
    rule = rule if "lr" in state.hparams else None
    guard_state, share = state.guard_state, torch.ones_like(loss)
    if rule is not None and rule.longest < math.inf:
        share = guard.share_of_length(rule.longest, state.params, candidate.params)
    if rule is not None and outcome is not None:
        losses = guard.Losses(loss, val_loss, val_loss - dot(outcome.grads, outcome.step))
        rise = guard.share_of_rise(guard_state, losses)
        verdict = guard.judge(faulty, finite, torch.minimum(share, rise))
        guard_state = guard.learned(guard_state, verdict, losses)
    else:
        verdict = guard.judge(faulty, finite, share)
    # A tangent that overflows says nothing of the candidate nor of other columns, which never meet
    # it: it alone is forgotten, and training goes on.
    finite_z = columns.finite(candidate.z, state.hparams)
    z = tree_map(_as_wide_as, columns.kept(candidate.z, finite_z), state.z)
    refused = state._replace(opt_state=ticked(state.opt_state, candidate.opt_state))
    if rule is not None:
        lowered = guard.lowered(state.hparams, verdict.factor, rule.lowest)
        hparams = where(verdict.blamed, lowered, state.hparams)
        refused = refused._replace(hparams=hparams)
    kept = where(verdict.accepted, candidate._replace(z=z), refused)
    z_reset = tree_map(lambda finite: verdict.accepted & ~finite, finite_z)
    seen = (signal.hypergrads, signal.cosine, ratio, mu)
    info = Info(loss, val_loss, *seen, verdict.accepted, z_reset, share_kept)
    return kept._replace(guard_state=guard_state), info


def _as_wide_as(leaf: Tensor, like: Tensor) -> Tensor:
    return leaf.to(like.dtype)


def _as_finite_as(after: Tensor, before: Tensor) -> Tensor:
    """``after``, 0 where ``before`` was not finite either: a mask of -inf breaks no run."""
    return torch.where(before.isfinite(), after, torch.zeros_like(after))
