"""GeN: lr of any optimizer by the parabola through three losses along its step.

With the step -lr d, the losses L0 at w, L- at w - lr d and L+ at w + lr d of another batch give
slope and curvature along d, and the best lr of that parabola,

    lr* = lr (L+ - L-) / (2 (L+ + L- - 2 L0))

towards which lr moves by a tenth, where both are positive: every eighth step, which costs three
forward passes. What is used is lr times ``1 - t / steps``, its page's horizon-aware variant.
Source: Bu and Xu 2024, arXiv 2407.02772, with its constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

EVERY, KEPT = 8, 0.9


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    pairs: Iterable[Any],
    criterion: Callable[..., Tensor],
) -> list[float]:
    """Train in place; lr after each step."""
    (group,), lrs, pairs = optimizer.param_groups, [], iter(pairs)
    lr = group["lr"]
    for t, ((x, y), _) in zip(range(steps), pairs, strict=False):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        before = [p.detach().clone() for p in model.parameters()]
        group["lr"] = lr * (1 - t / steps)
        optimizer.step()
        if t % EVERY == 0:
            lr *= _factor(model, before, pairs, criterion)
        lrs.append(group["lr"])
    return lrs


@torch.no_grad()
def _factor(
    model: nn.Module, before: list[Tensor], pairs: Iterator[Any], criterion: Callable[..., Tensor]
) -> float:
    """By what lr changes for the steps to come; the model is left where the step took it."""
    (x, y), _ = next(pairs)
    step = [p - old for p, old in zip(model.parameters(), before, strict=True)]

    def loss_at(share: float) -> float:
        for p, old, its in zip(model.parameters(), before, step, strict=True):
            p.copy_(old + share * its)
        return float(criterion(model(x), y))

    here, behind, ahead = loss_at(0.0), loss_at(-1.0), loss_at(1.0)
    slope, curvature = (behind - ahead) / 2, behind + ahead - 2 * here
    return KEPT + (1 - KEPT) * slope / curvature if slope > 0 and curvature > 0 else 1.0
