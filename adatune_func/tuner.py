"""Train steps that tune their own hyperparameters, and plain training beside them.

A tuner is ``Tuner(init, step, train)``. ``step`` is pure, so that ``jit`` and ``vmap`` take it as
it is, and costs no host sync. With outer loss "validation",

    (g, Hz)        ← hvp of the training loss at w along Z
    (u, Z)         ← (Phi(u, η), A (mu Z) + B)
    h              ← <∇E(w), Z>  at the new w, on the validation batch
    η, mu          ← their rules, for the next step

and with "next_batch", where each training batch is the outer sample of the steps before it,

    (g, Hz)        ← hvp of the training loss at w along Z
    h              ← <g, Z>
    η, mu          ← their rules
    (u, Z)         ← (Phi(u, η), A (mu Z) + B)  with the new η

where a hyperparameter of the loss is tuned, with ``h ← <∇E(w), Z>`` of the plain loss on that batch
before all of it. The hvp is of the training loss along Z and, for these, along η itself.
``train`` takes ``u ← Phi(u, η)`` and leaves η. The Z that it leaves behind is the tangent of no
step any more: the next ``step`` starts from Z = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .curvature import (
    check_judged,
    exact,
    no_curvature,
    outer_gradient,
    own_domains,
    plain_loss,
    products_along,
    tuned_in,
)
from .optimizers import Optimizer
from .options import Outer, check_options
from .plain_training import trained
from .recursion import Inner, advance, discounted, hypergradient
from .replicas import together
from .rules import (
    Bound,
    Discount,
    HyperUpdate,
    Trail,
    constant,
    lagged,
    relative,
    snr,
    stepped_back,
    within,
)
from .rules import bound as bounds
from .state import Info, Observed, Outcome, Tuner, TunerState, checked, initial, remembered, settle
from .trees import (
    Batch,
    Buffers,
    HParams,
    Hvp,
    LossFn,
    Mean,
    Params,
    Signal,
    all_finite,
    alone,
    columns,
    tree_leaves,
    tree_map,
)


def marthe(
    loss_fn: LossFn,
    optimizer: Optimizer,
    *,
    mu: float | Discount = 0.995,
    hyper_update: HyperUpdate = relative(),
    hvp: Hvp = exact,
    outer: Outer = "validation",
    val_loss_fn: LossFn | None = None,
    clip_outer: float | None = None,
    bound: Bound | None = None,
    mean: Mean = alone,
    z_dtype: torch.dtype | None = None,
) -> Tuner:
    """Training that tunes what is in ``hparams``, with tangents discounted by mu.

    Args:
        loss_fn: ``loss_fn(params, buffers, batch) -> (loss, buffers)``, the training loss, or a
            :class:`Loss` with hyperparameters of its own.
        optimizer: any :class:`Optimizer`; what is not tuned keeps its value at construction.
        mu: the discount in [0, 1], a float or a :class:`Discount` such as ``adaptive()``.
        hyper_update: how hypergradients move the hyperparameters.
        hvp: how Hessian-vector products are made: ``exact``, ``gauss_newton`` and others.
        outer: "validation" judges each step on ``val_batch``; "next_batch" on the next training
            batch, at no further cost.
        val_loss_fn: the outer loss; by default ``loss_fn`` in its own mode, of a :class:`Loss` its
            ``plain``. It never moves buffers. Where hyperparameters of the loss are tuned it judges
            the "next_batch" too, for one more gradient. One that has them itself has their direct
            term ``∂E/∂η`` in h.
        clip_outer: clip the entries of the outer gradient to [-c, c].
        bound: what becomes of a tangent that is longer than its path, ``cut()`` or
            ``begin_again()``; see :mod:`adatune_func.rules.bound`.
        mean: over ranks, each with its part of the batches: ``replicas.mean()``.
        z_dtype: in which Z waits for the next step, ``torch.bfloat16`` to halve what it takes;
            what is computed with it is not narrowed.

    A step that would break the run is a null step, ``info.accepted`` is False. Batches that
    spoil loss or gradient are skipped, a candidate that is not finite is refused. Where lr is
    tuned, so is one further away than the rule's ``longest`` and, with "validation", one whose
    outer loss explodes, and lr is lowered; see :mod:`adatune_func.guard`.

    Raises:
        ValueError, TypeError: at ``init``, in words, on anything that can be known there; at the
            first step when a batch or a buffer is missing or the loss is not a scalar.

    Source: Donini et al. 2020, "MARTHE: Scheduling the learning rate via online hypergradients".
    """
    discount = mu if isinstance(mu, Discount) else constant(mu)
    grads_are_late = outer == "next_batch" and discount.uses_grads
    if grads_are_late:
        discount = lagged(discount)
    outer_loss_fn = val_loss_fn or plain_loss(loss_fn)
    rule = within(hyper_update, own_domains(loss_fn))

    def init(params: Params, hparams: HParams, buffers: Buffers | None = None) -> TunerState:
        check_options(optimizer, outer, clip_outer, hyper_update, hvp, mean, z_dtype)
        state = initial(loss_fn, optimizer, params, hparams, buffers, z_dtype)
        if tuned_in(loss_fn, state.hparams):
            check_judged(loss_fn, state.hparams, val_loss_fn, grads_are_late)
        elif outer == "next_batch" and val_loss_fn is not None:
            raise ValueError('val_loss_fn is never called with outer="next_batch": leave it out')
        return state._replace(
            mu_state=discount.init(state.params, state.hparams),
            hyper_state=rule.init(state.hparams),
        )

    def differentiate(
        state: TunerState, batch: Batch
    ) -> tuple[tuple[Params, Params, Tensor, Tensor], Buffers]:
        grads, dg, (loss, buffers) = products_along(
            hvp if tree_leaves(state.hparams) else no_curvature,
            loss_fn,
            state.buffers,
            state.params,
            batch,
            state.z.params,
            state.hparams,
            mean,
        )
        seen = grads, dg, loss, ~all_finite(batch)
        return together(mean, seen, buffers, state.buffers)

    def move(state: TunerState, grads: Params, dg: Params) -> TunerState:
        u = Inner(state.params, state.opt_state)
        u, z = advance(optimizer, grads, dg, u, state.z, state.hparams)
        step: Tensor | float = 0.0
        if bound is not None:
            step = bounds.steps(state.params, u.params, state.hparams, rule.domains)
        trail = Trail(state.trail.length + step, state.trail.age + 1)
        tuning = torch.ones_like(state.tuning)
        state = state._replace(params=u.params, opt_state=u.opt_state)
        return state._replace(z=z, trail=trail, tuning=tuning)

    def within_bound(state: TunerState) -> tuple[TunerState, HParams]:
        if bound is None or not tree_leaves(state.hparams):
            return state, tree_map(torch.ones_like, state.hparams)
        share = bound(bounds.sizes(state.z.params), state.trail.length)
        trail = discounted((share > 0).to(share.dtype), state.trail)
        kept = columns.unstack(share, state.hparams)
        state = state._replace(z=discounted(share, state.z), trail=trail)
        return state._replace(hparams=stepped_back(rule, state.hparams, kept)), kept

    def tune(
        state: TunerState, outer_grads: Params, direct: HParams, grads: Params, z: Inner
    ) -> tuple[TunerState, Signal, HParams]:
        if clip_outer is not None:
            low, high = -clip_outer, clip_outer
            outer_grads = tree_map(lambda g: g.clamp(low, high), outer_grads)
        signal = hypergradient(outer_grads, optimizer.judged(*state.z), state.hparams, direct)
        if optimizer.lag > 1:
            trust = columns.unstack((state.trail.age / optimizer.lag).clamp(max=1), state.hparams)
            here = columns.unstack(columns.dots(grads, z.params), state.hparams)
            here = {name: here[name] if name == "lr" else signal.here[name] for name in here}
            signal = signal._replace(here=here, trust=trust)
        hparams, hyper_state = rule.update(signal, state.hyper_state, state.hparams)
        mu_state = discount.update(state.mu_state, hparams, outer_grads, grads)
        ratio, snr_state = snr.update(state.snr_state, signal.cosine)
        moved = state._replace(hparams=hparams, hyper_state=hyper_state, mu_state=mu_state)
        return moved._replace(snr_state=snr_state), signal, ratio

    def validation_step(
        state: TunerState, batch: Batch, val_batch: Batch
    ) -> tuple[TunerState, Info]:
        mu = state.mu_state.mu
        known = remembered(state, mu * state.tuning)
        (grads, dg, loss, tainted), buffers = differentiate(known, batch)
        candidate = move(known, grads, dg)._replace(buffers=buffers)
        judged, before = (optimizer.judged(s.params, s.opt_state) for s in (candidate, state))
        of_outer = outer_gradient(outer_loss_fn, buffers, judged, val_batch, state.hparams)
        seen = *of_outer, tainted | ~all_finite(val_batch)
        outer_grads, direct, val_loss, tainted = mean(seen)
        candidate, signal, ratio = tune(candidate, outer_grads, direct, grads, known.z)
        candidate, kept = within_bound(candidate)
        faulty = ~all_finite(loss, grads)
        observed = Observed(loss, val_loss, signal, ratio, mu, kept, faulty, tainted)
        outcome = Outcome(outer_grads, tree_map(torch.sub, judged, before))
        return settle(state, candidate, observed, outcome, rule)

    def next_batch_step(state: TunerState, batch: Batch) -> tuple[TunerState, Info]:
        known = remembered(state, state.tuning)
        if tuned_in(loss_fn, state.hparams):  # what judges is another loss than what trains
            judged = outer_gradient(
                outer_loss_fn, state.buffers, state.params, batch, state.hparams
            )
            outer_grads, direct, val_loss = mean(judged)
            steered, signal, ratio = tune(known, outer_grads, direct, outer_grads, known.z)
            steered = remembered(steered, steered.mu_state.mu)
            (grads, dg, loss, tainted), buffers = differentiate(steered, batch)
        else:
            (grads, dg, loss, tainted), buffers = differentiate(known, batch)
            val_loss = loss
            steered, signal, ratio = tune(known, grads, {}, grads, known.z)
            steered = remembered(steered, steered.mu_state.mu)
            dg = discounted(steered.mu_state.mu, dg)  # H is linear: mu may come after the product
        candidate = move(steered, grads, dg)._replace(buffers=buffers)
        candidate, kept = within_bound(candidate)
        faulty, mu = ~all_finite(loss, grads), candidate.mu_state.mu
        observed = Observed(loss, val_loss, signal, ratio, mu, kept, faulty, tainted)
        return settle(state, candidate, observed, None, rule)

    def step(state: TunerState, batch: Batch, val_batch: Batch = None) -> tuple[TunerState, Info]:
        if outer == "validation" and val_batch is None:
            raise ValueError(
                'outer="validation" needs step(state, batch, val_batch); "next_batch" does not'
            )
        # Parameters or captured tensors that require grad would hang the run's graph on the state.
        with checked(state), torch.no_grad():
            if tree_leaves(state.hparams) and not tree_leaves(state.z.params):
                raise ValueError("this state has no tangent, as those of plain: start from init")
            if outer == "validation":
                return validation_step(state, batch, val_batch)
            return next_batch_step(state, batch)

    def train(state: TunerState, batch: Batch) -> tuple[TunerState, Info]:
        with checked(state), torch.no_grad():
            return trained(loss_fn, optimizer, rule, state, batch, mean)

    return Tuner(init, step, train)
