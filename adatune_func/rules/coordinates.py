"""The line on which a hyperparameter moves, where a step means the same everywhere.

    x = log η                    lr, weight_decay, eps and whatever is positive
    x = log(1 - η)               momentum, beta1, beta2: a step scales the horizon 1 / (1 - η)
    x = log(η - a) - log(b - η)  what lives in [a, b] with a ≤ 0, such as label smoothing in [0, 1]
    x = η                        what may have any sign

What is measured per unit of η is measured per unit of x by the factor ``dη/dx``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..trees import HParams, tree_map

Domain = tuple[float, float]

#: Hyperparameters that move on the line log(1 - η).
NEAR_ONE = ("momentum", "beta1", "beta2")

#: Those that move on log η whatever their domain.
ON_LOG = ("lr", "weight_decay", "eps")

#: How close to an end of [a, b] η may come, relative to b - a: at the end it could not move.
MARGIN = 1e-6

#: No positive hyperparameter leaves this range: far enough for any start, and still normal floats.
LOWEST, HIGHEST = 1e-12, 1e6


class Line(NamedTuple):
    """A coordinate x of η.

    Attributes:
        slope: ``slope(η) -> dη/dx``.
        shifted: ``shifted(η, δ)``, η after ``x ← x - δ``.
        ends: of η on this line, both included.
        borders: where η could not move.
    """

    slope: Callable[[Tensor], Tensor]
    shifted: Callable[[Tensor, Tensor], Tensor]
    ends: Domain
    borders: tuple[float, ...] = ()


def line_of(name: str, domain: Domain) -> Line:
    """The line of a hyperparameter that lives in ``domain``, both ends included.

    >>> line_of("lr", (0.0, math.inf)).slope(torch.tensor(0.25))
    tensor(0.2500)
    >>> line_of("momentum", (0.0, 1.0)).slope(torch.tensor(0.75))
    tensor(-0.2500)
    >>> line_of("smoothing", (0.0, 1.0)).slope(torch.tensor(0.25))
    tensor(0.1875)
    """
    low, high = domain
    if name in NEAR_ONE:
        return Line(_from_one, _shifted_from_one, domain)
    if name in ON_LOG or low > 0 or (low == 0 and high == math.inf):
        ends = (max(low, LOWEST), min(high, HIGHEST))
        return Line(_itself, _scaled, ends, (0.0,))
    if math.isfinite(low) and math.isfinite(high):
        return _between(low, high)
    return Line(torch.ones_like, torch.sub, domain)


def slope(line: Line, eta: Tensor) -> Tensor:
    """``dη/dx``."""
    return line.slope(eta)


def _itself(eta: Tensor) -> Tensor:
    return eta


def _scaled(eta: Tensor, delta: Tensor) -> Tensor:
    return eta * torch.exp(-delta)


def _from_one(eta: Tensor) -> Tensor:
    return eta - 1


def _shifted_from_one(eta: Tensor, delta: Tensor) -> Tensor:
    return 1 - (1 - eta) * torch.exp(-delta)


def _between(low: float, high: float) -> Line:
    width = high - low

    def slope(eta: Tensor) -> Tensor:
        return (eta - low) * (high - eta) / width

    def shifted(eta: Tensor, delta: Tensor) -> Tensor:
        odds = (eta - low) * torch.exp(-delta)
        return low + width * odds / (high - eta + odds)

    return Line(slope, shifted, (low + MARGIN * width, high - MARGIN * width), (low, high))


def lines_of(hparams: HParams, domains: Mapping[str, Domain]) -> dict[str, Line]:
    """The line of each name."""
    return {name: line_of(name, domains.get(name, (0.0, math.inf))) for name in hparams}


def mapped(fn: Callable[..., Any], lines: Mapping[str, Line], *trees: HParams) -> HParams:
    """``fn(line, leaf, leaf, ...)`` over trees shaped as hparams."""
    return {
        name: tree_map(functools.partial(fn, lines[name]), *(tree[name] for tree in trees))
        for name in trees[0]
    }
