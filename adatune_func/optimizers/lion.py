"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..trees import HParams, Params, tree_map
from .optimizer import Optimizer


class LionState(NamedTuple):
    exp_avg: Params


def lion(
    lr: float = 1e-4, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0
) -> Optimizer:
    """``w ← w - lr·(sign(β₁m + (1 - β₁)g) + weight_decay·w);  m ← β₂m + (1 - β₂)g``.

    Where it has one, the sign's derivative is 0, so no curvature enters the recursion for w: ``Z ←
    (1 - lr·weight_decay) mu Z - (sign(·) + weight_decay·w)`` for lr. That is the derivative of the
    run almost everywhere: it holds all later signs fixed, though a longer step would flip some. So
    h of lr says how far to go along the directions taken, ``no_curvature`` gives the same h of lr
    and weight_decay at less cost, and h of beta1 and beta2 is 0: they cannot be tuned.

    Hyperparameters: lr, beta1, beta2, weight_decay. Source: Chen et al. 2023, arXiv 2302.06675,
    algorithm 2.

    >>> import torch
    >>> optimizer, params = lion(lr=0.5), {"w": torch.tensor([1.0, -1.0])}
    >>> optimizer.update(params, optimizer.init(params), params, optimizer.hparams)[0]
    {'w': tensor([-0.5000,  0.5000])}
    """

    def init(params: Params) -> LionState:
        return LionState(tree_map(torch.zeros_like, params))

    def update(
        grads: Params, state: LionState, params: Params, hparams: HParams
    ) -> tuple[Params, LionState]:
        lr, decay = hparams["lr"], hparams["weight_decay"]
        beta1, beta2 = hparams["beta1"], hparams["beta2"]

        def step(w: torch.Tensor, g: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
            return -lr * (torch.sign(beta1 * m + (1 - beta1) * g) + decay * w)

        updates = tree_map(step, params, grads, state.exp_avg)
        moved = tree_map(lambda m, g: beta2 * m + (1 - beta2) * g, state.exp_avg, grads)
        return updates, LionState(moved)

    hparams = {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": weight_decay}
    return Optimizer(init, update, hparams)
