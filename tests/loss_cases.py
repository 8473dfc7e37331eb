"""Losses with hyperparameters of their own, one of each kind that people tune."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adatune_func as atf
from tests.cases import Problem


def smoothed(output: Tensor, target: Tensor, smoothing: Any = 0.0) -> Tensor:
    """Label smoothing, written out."""
    logp = F.log_softmax(output, 1)
    return (1 - smoothing) * F.nll_loss(logp, target) - smoothing * logp.mean()


def two_tasks(output: Tensor, target: Tensor, weight: Any = 0.0) -> Tensor:
    return F.cross_entropy(output, target) + weight * F.cross_entropy(output.flip(1), target)


def named_tasks(output: Tensor, target: Tensor, tasks: Any = None) -> Tensor:
    """A weight by name for each of three."""
    one, two = F.cross_entropy(output, target), F.cross_entropy(output.flip(1), target)
    if tasks is None:
        return one
    return tasks["one"] * one + tasks["two"] * two + tasks["size"] * output.square().mean()


def tempered(output: Tensor, target: Tensor, temperature: Any = 1.0) -> Tensor:
    return F.cross_entropy(output / temperature, target)


def weighted(output: Tensor, target: Tensor, classes: Any = None) -> Tensor:
    """A weight per class, the mean over their sum as in torch."""
    if classes is None:
        return F.cross_entropy(output, target)
    each = classes[target]
    return (each * F.cross_entropy(output, target, reduction="none")).sum() / each.sum()


class Penalized(nn.Module):
    """Returns its own loss, with a penalty on its weights."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, target: Tensor, penalty: Any = 0.0) -> Tensor:
        squares = sum(p.square().sum() for p in self.body.parameters())
        return F.cross_entropy(self.body(x), target) + penalty * squares


#: criterion (or a module), its hyperparameters where they start
LOSSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "smoothing": (smoothed, {"smoothing": 0.2}),
    "weight": (two_tasks, {"weight": 0.3}),
    "penalty": (Penalized, {"penalty": 0.01}),
    "temperature": (tempered, {"temperature": 0.8}),
    "classes": (weighted, {"classes": (1.0, 0.5, 2.0, 1.5, 0.7)}),
    "tasks": (named_tasks, {"tasks": {"one": 1.0, "two": 0.3, "size": 0.1}}),
}

DOMAINS: dict[str, tuple[float, float]] = {"smoothing": (0.0, 1.0)}


def loss_problem(name: str, steps: int = 5, dtype: torch.dtype = torch.float64) -> Problem:
    """The smooth MLP of ``tests.cases`` under one of LOSSES."""
    torch.manual_seed(7)
    criterion, hparams = LOSSES[name]
    body: nn.Module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).to(dtype)
    if criterion is Penalized:
        body, criterion = Penalized(body), None
    given = {
        n: v if isinstance(v, dict) else torch.tensor(v, dtype=dtype) for n, v in hparams.items()
    }
    loss_fn, params, buffers = atf.functionalize(
        body, criterion, hparams=given, domains={n: DOMAINS[n] for n in hparams if n in DOMAINS}
    )

    def draw() -> tuple[Tensor, Tensor]:
        return torch.randn(16, 6, dtype=dtype), torch.randint(0, 5, (16,))

    return Problem(loss_fn, params, buffers, [(draw(), draw()) for _ in range(steps)])
