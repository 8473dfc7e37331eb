"""Optimizers as triples of pure pieces, step for step equal to ``torch.optim``.

An optimizer is ``Optimizer(init, update, hparams)``; ``params + updates`` is the step. Everything
in ``update`` is differentiated by ``torch.func.jvp``, so an optimizer of your own needs no
derivative: only functions that are differentiable where they are used, and a state whose leaves are
all floating point (step counters too).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .trees import scalar_like, tree_map
from .types import HParams, Params, PyTree


def at_params(params: Params, opt_state: PyTree) -> Params:
    """``params``: training is judged where it is."""
    return params


class Optimizer(NamedTuple):
    """A first-order optimizer as pure functions.

    Attributes:
        init: ``init(params) -> opt_state``, a pytree of floating-point tensors.
        update: ``update(grads, opt_state, params, hparams) -> (updates, opt_state)``; trees of the
            shapes of ``params`` and ``opt_state``. Here ``hparams`` has every name of the field
            below: a 0-d tensor where it is tuned, else the number given at construction. Write
            arithmetic that takes both.
        hparams: each hyperparameter's name and its value at construction; what is tuned
            overrides it.
        judged: ``judged(params, opt_state) -> params``, where the outer loss is taken: the
            parameters, or a tree of their shapes in the state, as an average of them. It selects,
            so it takes the tangent of both to the tangent of what it selects.
    """

    init: Callable[[Params], PyTree]
    update: Callable[[Params, PyTree, Params, HParams], tuple[Params, PyTree]]
    hparams: dict[str, Any]
    judged: Callable[[Params, PyTree], Params] = at_params


class SGDState(NamedTuple):
    momentum_buffer: Params
    step: Tensor  # steps taken so far, 0-d


class AdamState(NamedTuple):
    exp_avg: Params
    exp_avg_sq: Params
    step: Tensor  # steps taken so far, 0-d


def sgd(
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> Optimizer:
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``.

    ``d = g + weight_decay·w;  b ← momentum·b + (1 - dampening)·d;  w ← w - lr·b``, or with Nesterov
    ``w ← w - lr·(d + momentum·b)``. The first step takes ``b = d``, whatever the dampening, and
    so does each step without momentum.
    Hyperparameters: lr, momentum, weight_decay. Source: Sutskever et al. 2013.

    Raises:
        ValueError: for Nesterov with dampening, which torch does not have either.
    """
    if nesterov and dampening:
        raise ValueError("nesterov momentum takes no dampening")

    def init(params: Params) -> SGDState:
        return SGDState(tree_map(torch.zeros_like, params), scalar_like(params, 0.0))

    def update(
        grads: Params, state: SGDState, params: Params, hparams: HParams
    ) -> tuple[Params, SGDState]:
        lr, momentum, decay = hparams["lr"], hparams["momentum"], hparams["weight_decay"]
        damped = (state.step > 0) & (momentum != 0)
        gain = 1 - dampening * damped.to(state.step.dtype)
        d = tree_map(lambda g, w: g + decay * w, grads, params)
        buffer = tree_map(lambda b, d: momentum * b + gain * d, state.momentum_buffer, d)
        direction = tree_map(lambda d, b: d + momentum * b, d, buffer) if nesterov else buffer
        return tree_map(lambda d: -lr * d, direction), SGDState(buffer, state.step + 1)

    return Optimizer(init, update, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})


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
    direction = tree_map(lambda m, v: m / gap1 / (_safe_sqrt(v) / gap2 + eps), m, v)
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


def _safe_sqrt(v: Tensor) -> Tensor:
    """``√v`` whose tangent at v = 0 is 0, not 0/0: there the gradients were all 0 so far."""
    positive = v > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, v, 1.0)), 0.0)
