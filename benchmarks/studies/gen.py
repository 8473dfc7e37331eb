"""GeN: lr of any optimizer by the parabola through three losses along its step.

With the step -lr d, the losses L0 at w, L- at w - lr d and L+ at w + lr d of one batch give slope
and curvature along d, and the best lr of that parabola,

    lr* = lr (L+ - L-) / (2 (L+ + L- - 2 L0))

towards which lr moves by a tenth, where both are positive: every eighth step, which costs two
forward passes. Source: Bu and Xu 2024, arXiv 2407.02772, with its constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    (group,), lrs = optimizer.param_groups, []
    for t, ((x, y), _) in zip(range(steps), pairs, strict=False):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        if t % EVERY == 0:
            _refit(model, group, before, loss.detach(), lambda x=x, y=y: criterion(model(x), y))
        lrs.append(group["lr"])
    return lrs


@torch.no_grad()
def _refit(
    model: nn.Module, group: Any, before: list[Tensor], here: Tensor, loss: Callable[[], Tensor]
) -> None:
    """Move lr, and take the step that was taken with the new one."""
    step = [p - old for p, old in zip(model.parameters(), before, strict=True)]

    def go(factor: float) -> None:
        for p, old, its in zip(model.parameters(), before, step, strict=True):
            p.copy_(old + factor * its)

    ahead = loss()
    go(-1.0)
    behind = loss()
    slope, curvature = float(behind - ahead) / 2, float(behind + ahead - 2 * here)
    factor = 1.0
    if slope > 0 and curvature > 0:
        factor = KEPT + (1 - KEPT) * slope / curvature
        group["lr"] *= factor
    go(factor)
