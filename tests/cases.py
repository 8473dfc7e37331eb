"""Named problems, and the lists that every law of the package runs over."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import tree_map

#: For tests that choose the kernel of attention.
needs_sdpa_kernel = pytest.mark.skipif(
    find_spec("torch.nn.attention") is None, reason="torch.nn.attention came with torch 2.3"
)


class Problem(NamedTuple):
    loss_fn: Any
    params: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    batches: list[tuple[Any, Any]]  # (batch, val_batch)


def _problem(module: nn.Module, *size: int, steps: int, dtype: torch.dtype) -> Problem:
    """Five classes, inputs of the given size, random labels: nothing to learn, much curvature."""
    loss_fn, params, buffers = atf.functionalize(module.to(dtype), F.cross_entropy)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(*size, dtype=dtype), torch.randint(0, 5, (size[0],))

    return Problem(loss_fn, params, buffers, [(draw(), draw()) for _ in range(steps)])


def _mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 5))


def tanh_mlp(steps: int = 5, dtype: torch.dtype = torch.float64) -> Problem:
    torch.manual_seed(1)
    return _problem(_mlp(nn.Tanh), 16, 6, steps=steps, dtype=dtype)


def relu_mlp(steps: int = 5, dtype: torch.dtype = torch.float64) -> Problem:
    torch.manual_seed(2)
    return _problem(_mlp(nn.ReLU), 16, 6, steps=steps, dtype=dtype)


def conv_batchnorm(
    steps: int = 5, dtype: torch.dtype = torch.float64, channels: int = 1, bias: bool = True
) -> Problem:
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Conv2d(channels, 3, 3, bias=bias),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 5),
    )
    return _problem(module, 12, channels, 6, 6, steps=steps, dtype=dtype)


def in_channels_last(problem: Problem) -> Problem:
    """The same numbers, what has four dimensions with the channels last in memory."""

    def turned(leaf: torch.Tensor) -> torch.Tensor:
        return leaf.contiguous(memory_format=torch.channels_last) if leaf.ndim == 4 else leaf

    params, batches = tree_map(turned, (problem.params, problem.batches))
    return problem._replace(params=params, batches=batches)


def dropout_mlp(steps: int = 5, dtype: torch.dtype = torch.float64) -> Problem:
    torch.manual_seed(4)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 5))
    return _problem(module, 16, 6, steps=steps, dtype=dtype)


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "tanh_mlp": tanh_mlp,
    "relu_mlp": relu_mlp,
    "conv_batchnorm": conv_batchnorm,
}

OPTIMIZERS: dict[str, atf.Optimizer] = {
    "sgd": atf.sgd(lr=0.1),
    "sgd_momentum": atf.sgd(lr=0.1, momentum=0.9),
    "sgd_nesterov": atf.sgd(lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "sgd_dampening": atf.sgd(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=1e-2),
    "adam": atf.adam(lr=0.01, eps=1e-4, weight_decay=1e-2),
    "adamw": atf.adamw(lr=0.01, eps=1e-4, weight_decay=1e-2),
    "clipped": atf.clip_grad_norm(atf.clip_grads(atf.sgd(lr=0.1, momentum=0.9), 0.05), 0.2),
    "muon": atf.muon(lr=0.02, eps=1e-4),
    "lion": atf.lion(lr=0.003, weight_decay=0.1),
    "scheduled": atf.scheduled(atf.sgd(lr=0.1, momentum=0.9), atf.shapes.cooldown(60, last=0.9)),
    "by_ratio": atf.by_ratio(
        atf.adamw(lr=0.01, eps=1e-4), lr={"": 1.0, "0": 2.0}, weight_decay={"": 1.0, "0.bias": 0.0}
    ),
}

#: Wrappers around what is compiled anyway, and lion, of a few elementwise operations: their own
#: files compile them once.
COMPILED_ELSEWHERE = ("scheduled", "by_ratio", "lion")

HVPS: dict[str, Any] = {
    "forward_over_reverse": atf.forward_over_reverse,
    "reverse_over_reverse": atf.reverse_over_reverse,
    "finite_difference": atf.finite_difference(),
    "central_difference": atf.finite_difference(central=True),
    "no_curvature": atf.no_curvature,
    "gauss_newton": atf.gauss_newton,
    "on_fraction": atf.scale_products(atf.on_fraction(atf.exact, 1 / 2), 1 / 2),
    "accumulated": atf.clip_products(atf.accumulate(atf.exact, 2), 10.0),
}

EXACT_HVPS = ("forward_over_reverse", "reverse_over_reverse")

_RULE = atf.additive(1e-3, alpha=1e-6)

#: ``tuner = METHODS[name](loss_fn, optimizer, hvp)``, and other arguments of ``marthe`` by name
METHODS: dict[str, Callable[..., atf.Tuner]] = {
    "hd": lambda loss_fn, optimizer, hvp, **kw: atf.hd(
        loss_fn, optimizer, hyper_update=_RULE, hvp=hvp, **kw
    ),
    "rtho": lambda loss_fn, optimizer, hvp, **kw: atf.rtho(
        loss_fn, optimizer, hyper_update=_RULE, hvp=hvp, **kw
    ),
    "marthe": lambda loss_fn, optimizer, hvp, **kw: atf.marthe(
        loss_fn, optimizer, hyper_update=_RULE, hvp=hvp, **kw
    ),
    "marthe_relative": lambda loss_fn, optimizer, hvp, **kw: atf.marthe(
        loss_fn, optimizer, hvp=hvp, **kw
    ),
    "marthe_adaptive": lambda loss_fn, optimizer, hvp, **kw: atf.marthe(
        loss_fn, optimizer, mu=atf.adaptive(), hyper_update=_RULE, hvp=hvp, **kw
    ),
    "adaptive_next_batch": lambda loss_fn, optimizer, hvp, **kw: atf.marthe(
        loss_fn,
        optimizer,
        mu=atf.adaptive(),
        hyper_update=_RULE,
        hvp=hvp,
        outer="next_batch",
        bound=atf.cut(0.9),
        **kw,
    ),
}


def tunable(optimizer: atf.Optimizer) -> dict[str, float]:
    """Every hyperparameter of an optimizer at a value where central differences see it."""
    floor = {"momentum": 0.5, "weight_decay": 1e-3}
    return {name: value or floor[name] for name, value in optimizer.hparams.items()}


def start(problem: Problem, tuner: atf.Tuner, hparams: dict[str, Any]) -> atf.TunerState:
    return tuner.init(problem.params, hparams=hparams, buffers=problem.buffers)
