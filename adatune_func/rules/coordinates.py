"""The line on which a hyperparameter moves, where a step means the same everywhere.

    x = log η            lr, weight_decay, eps and whatever is positive
    x = log(1 - η)       momentum, beta1, beta2: a step scales the horizon 1 / (1 - η)

What is measured per unit of η is measured per unit of x by the factor ``dη/dx``: η, or ``η - 1``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..trees import HParams, tree_map

#: Hyperparameters that move on the line log(1 - η); all others on log η.
NEAR_ONE = ("momentum", "beta1", "beta2")


def mapped(fn: Callable[..., Tensor], *trees: HParams) -> HParams:
    """``fn(name, leaf, leaf, ...)`` over trees shaped as hparams."""
    return {
        name: tree_map(functools.partial(fn, name), *(tree[name] for tree in trees))
        for name in trees[0]
    }


def slope(name: str, eta: Tensor) -> Tensor:
    """``dη/dx``.

    >>> slope("lr", torch.tensor(0.25)), slope("momentum", torch.tensor(0.75))
    (tensor(0.2500), tensor(-0.2500))
    """
    return eta - 1 if name in NEAR_ONE else eta


def shifted(name: str, eta: Tensor, delta: Tensor) -> Tensor:
    """η after ``x ← x - delta``."""
    if name in NEAR_ONE:
        return 1 - (1 - eta) * torch.exp(-delta)
    return eta * torch.exp(-delta)
