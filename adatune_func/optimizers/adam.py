"""Adam and AdamW, step for step equal to ``torch.optim``."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..trees import HParams, Params, scalar_like, tree_map
from .optimizer import Optimizer
from .roots import safe_sqrt


class AdamState(NamedTuple):
    exp_avg: Params
    exp_avg_sq: Params
    step: Tensor  # steps taken so far, 0-d


def adam(
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam with L2 regularisation inside the gradient, as ``torch.optim.Adam``.

    With ``d = g + weight_decay·w``: ``m ← β₁m + (1 - β₁)d;  v ← β₂v + (1 - β₂)d²;
    w ← w - lr · m/(1 - β₁ᵗ) / (√(v/(1 - β₂ᵗ)) + eps)``.
    Hyperparameters: lr, beta1, beta2, eps, weight_decay. Its Jacobian reaches 1/eps where v is
    small: an eps of 1e-4 or so keeps tangents tame. Source: Kingma & Ba 2015, arXiv 1412.6980.

    Raises:
        ValueError: for a beta outside [0, 1).
    """

    def update(
        grads: Params, state: AdamState, params: Params, hparams: HParams
    ) -> tuple[Params, AdamState]:
        decay = hparams["weight_decay"]
        grads = tree_map(lambda g, w: g + decay * w, grads, params)
        direction, state = _adam_direction(grads, state, hparams)
        return tree_map(lambda d: -hparams["lr"] * d, direction), state

    return Optimizer(_adam_init, update, _adam_hparams(lr, beta1, beta2, eps, weight_decay))


def adamw(
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Optimizer:
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    As :func:`adam` without decay in the gradient; the step adds ``-lr·weight_decay·w``.
    Hyperparameters: lr, beta1, beta2, eps, weight_decay. Source: Loshchilov & Hutter 2019,
    arXiv 1711.05101.

    Raises:
        ValueError: for a beta outside [0, 1).
    """

    def update(
        grads: Params, state: AdamState, params: Params, hparams: HParams
    ) -> tuple[Params, AdamState]:
        lr, decay = hparams["lr"], hparams["weight_decay"]
        direction, state = _adam_direction(grads, state, hparams)
        return tree_map(lambda d, w: -lr * (d + decay * w), direction, params), state

    return Optimizer(_adam_init, update, _adam_hparams(lr, beta1, beta2, eps, weight_decay))


def _adam_hparams(
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
) -> dict[str, float]:
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:  # at 1 the correction of the bias divides by 0
            raise ValueError(f"{name} must lie in [0, 1), got {beta}")
    return {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}


def _adam_init(params: Params) -> AdamState:
    zeros = tree_map(torch.zeros_like, params)
    return AdamState(zeros, tree_map(torch.zeros_like, params), scalar_like(params, 0.0))


def _adam_direction(grads: Params, state: AdamState, hparams: HParams) -> tuple[Params, AdamState]:
    """``m̂ / (√v̂ + eps)`` and the next moments."""
    beta1, beta2, eps = hparams["beta1"], hparams["beta2"], hparams["eps"]
    step = state.step + 1
    m = tree_map(lambda m, g: beta1 * m + (1 - beta1) * g, state.exp_avg, grads)
    v = tree_map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.exp_avg_sq, grads)
    gap1, gap2 = _one_minus_power(beta1, step), torch.sqrt(_one_minus_power(beta2, step))
    direction = tree_map(lambda m, v: m / gap1 / (safe_sqrt(v) / gap2 + eps), m, v)
    return direction, AdamState(m, v, step)


def _one_minus_power(beta: Tensor | float, step: Tensor) -> Tensor:
    """``1 - betaᵗ`` without the cancellation that costs float32 3e-5 at t = 1 and beta2 = 0.999."""
    if not isinstance(beta, Tensor):
        return -torch.expm1(step * math.log(beta)) if beta > 0 else torch.ones_like(step)
    # A small beta has no cancellation, but at 0 a logarithm without a tangent.
    small = beta < 0.5
    return torch.where(
        small, 1 - beta**step, -torch.expm1(step * torch.log(torch.where(small, 0.5, beta)))
    )
