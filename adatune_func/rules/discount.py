"""Where the discount mu of ``Z ← A (mu Z) + B`` comes from: how far back a hypergradient looks.

A discount is ``Discount(init, update, uses_grads)``: its state has a field ``mu``, a 0-d tensor in
[0, 1]; ``update(state, hparams, outer_grads, grads) -> state`` is called once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..trees import HParams, Params, check_kind, dot, scalar_like, tree_map, where


class Discount(NamedTuple):
    """How mu starts and moves.

    Attributes:
        init: ``init(params, hparams) -> state``.
        update: ``update(state, hparams, outer_grads, grads) -> state``; ``hparams`` are those
            of the next step, ``grads`` the training gradient of the step that led to
            ``outer_grads``.
        uses_grads: whether ``update`` looks at ``grads``.
    """

    init: Callable[[Params, HParams], Any]
    update: Callable[[Any, HParams, Params, Params], Any]
    uses_grads: bool = False


class ConstantState(NamedTuple):
    mu: Tensor


class AdaptiveState(NamedTuple):
    mu: Tensor
    c: Tensor


class LaggedState(NamedTuple):
    mu: Tensor
    inner: Any
    grads: Params  # g of the step before
    started: Tensor  # 0 until grads hold a gradient, then 1


def constant(mu: float) -> Discount:
    """The same mu at each step: 0 is HD's horizon, 1 is RTHO's, between is MARTHE's.

    A tangent of age a weighs muᵃ, so the horizon is about 1 / (1 - mu) steps.

    Raises:
        ValueError, TypeError: at init, when mu is outside [0, 1] or no number.
    """

    def init(params: Params, hparams: HParams) -> ConstantState:
        check_kind("mu", mu, (int, float), "a number in [0, 1] or a Discount such as adaptive()")
        if not 0.0 <= mu <= 1.0:
            raise ValueError(f"mu must lie in [0, 1], got {mu}")
        return ConstantState(scalar_like(params, mu))

    def update(state: ConstantState, *_: Any) -> ConstantState:
        return state

    return Discount(init, update)


def adaptive() -> Discount:
    """MARTHE's adaptive mu, as in its released code, for the single scalar ``lr``.

    It starts with ``mu = c = 0``. After step t, with ``d = <∇E(w_{t+1}), g_t>``:
    ``q = clip(lr_{t+1} / d, 0, 1)``, 0 where d < 0 or lr = 0, 1 where d = 0;
    ``c ← c·sign(mu) + mu;  mu ← q^(1/(c+1))``.

    Raises:
        ValueError: at init, when anything but one scalar ``lr`` is tuned.

    Source: Donini et al. 2020, arXiv 1910.08525.
    """

    def init(params: Params, hparams: HParams) -> AdaptiveState:
        if set(hparams) != {"lr"} or not isinstance(hparams["lr"], Tensor):
            raise ValueError(
                "adaptive mu is defined for one scalar hyperparameter, hparams={'lr': ...}; "
                f"got {sorted(hparams)}; take a constant mu for anything else"
            )
        return AdaptiveState(scalar_like(params, 0.0), scalar_like(params, 0.0))

    def update(
        state: AdaptiveState, hparams: HParams, outer_grads: Params, grads: Params
    ) -> AdaptiveState:
        lr = hparams["lr"]
        d = dot(outer_grads, grads)
        q = (lr / torch.where(d == 0, 1.0, d)).clamp(0.0, 1.0)
        q = torch.where((d < 0) | (lr == 0), 0.0, torch.where(d == 0, 1.0, q))
        c = state.c * torch.sign(state.mu) + state.mu
        mu = q ** (1 / (c + 1))
        # A gradient that is not finite says nothing: stay. clamp alone would keep a NaN.
        return AdaptiveState(
            torch.where(torch.isfinite(d), mu, state.mu), torch.where(torch.isfinite(d), c, state.c)
        )

    return Discount(init, update, uses_grads=True)


def lagged(discount: Discount) -> Discount:
    """``discount`` for an outer gradient that is seen one step late: it keeps g in its state.

    With outer objective "next_batch" the gradient at w_{t+1} arrives in step t + 1, when g_t
    is gone. The first call has no gradient before it and leaves the inner state as it is.
    """

    def init(params: Params, hparams: HParams) -> LaggedState:
        inner = discount.init(params, hparams)
        zeros = tree_map(torch.zeros_like, params)
        return LaggedState(inner.mu.clone(), inner, zeros, scalar_like(params, 0.0))

    def update(
        state: LaggedState, hparams: HParams, outer_grads: Params, grads: Params
    ) -> LaggedState:
        moved = discount.update(state.inner, hparams, outer_grads, state.grads)
        inner = where(state.started > 0, moved, state.inner)
        return LaggedState(inner.mu, inner, grads, torch.ones_like(state.started))

    return Discount(init, update)
