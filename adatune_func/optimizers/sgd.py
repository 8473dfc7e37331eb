"""Stochastic gradient descent, step for step equal to ``torch.optim``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..trees import HParams, Params, scalar_like, tree_map
from .optimizer import Optimizer


class SGDState(NamedTuple):
    momentum_buffer: Params
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
        d = tree_map(lambda g, w: g + decay * w, grads, params)
        added, scale = d, -lr
        if dampening:
            damped = (state.step > 0) & (momentum != 0)
            gain = 1 - dampening * damped.to(state.step.dtype)
            added = tree_map(lambda d: gain * d, d)
        buffer = tree_map(lambda b, a: momentum * b + a, state.momentum_buffer, added)
        direction = tree_map(lambda d, b: d + momentum * b, d, buffer) if nesterov else buffer
        return tree_map(lambda d: scale * d, direction), SGDState(buffer, state.step + 1)

    return Optimizer(init, update, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
