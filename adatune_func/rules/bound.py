"""A tangent no longer than the path that training went: what is longer is chaos, not information.

Past the edge of stability the products of A in ``Z ← A (mu Z) + B`` grow exponentially, and h with
them. How long may a tangent be? On the line x of :mod:`~adatune_func.rules.coordinates` compare
column k of Z and the discounted path that w went, each step in units of what lr was at it,

    size_k = ‖Z^w_k‖ ,      L_k ← mu L_k + ‖w_{t+1} - w_t‖ / |dη_k/dx_k| ,      size_k ≤ kappa L_k .

For ``x = log lr`` and ``w ← w - lr d``, whatever d is, ``B = ∂w_{t+1}/∂lr = (w_{t+1} - w_t) / lr``:
B is the step itself, per unit of lr. Where the A are no expansions the triangle inequality gives

    ‖Z_{t+1}‖ = ‖Σ_s mu^(t-s) A_t ... A_{s+1} B_s‖ ≤ Σ_s mu^(t-s) ‖w_{s+1} - w_s‖ / lr_s = L_{t+1} ,

so kappa = 1 is exact where no A expands, however lr moves: gradient descent on a convex loss with
lr below 2 / λ_max. Elsewhere it is a rule of thumb. With momentum A expands for a while even where
training converges. And for momentum, betas, weight decay, eps or what stands in the loss B is not
the step but, as a rule, shorter. With an average of the weights, too, size and path are those of w,
since the average acts on nothing.

What to do with a column that is too long is a :data:`Bound`, ``bound(size, path) -> share``, the
share of it that goes on: a mu of that step, derived instead of guessed. Every column has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..trees import HParams, Params, columns, norm, tree_leaves, tree_map
from .coordinates import Domain, lines_of, mapped, slope

#: ``bound(size, path) -> share``: shape (K,) each, sizes and paths from 0 up, shares in [0, 1].
Bound: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Trail(NamedTuple):
    """Where the columns of Z come from, shape (K,) each; discounted as they are."""

    length: Tensor  # L, 0 where there is no bound
    age: Tensor  # how many steps have left something in Z


def cut(kappa: float = 1.0) -> Bound:
    """Shorten what is too long: ``share = min(1, kappa L / size)``, 0 where size is not finite.

    The direction stays, also that of what blew up; see :func:`begin_again`.

    Raises:
        ValueError: unless kappa is a positive number.

    >>> cut(1.0)(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
    tensor([1.0000, 0.5000])
    """
    if not 0 < kappa < math.inf:
        raise ValueError(f"kappa must be a positive number, got {kappa}")

    def bound(size: Tensor, path: Tensor) -> Tensor:
        fits = size <= kappa * path
        share = kappa * path / torch.where(fits, 1.0, size)
        return torch.where(fits, 1.0, torch.where(size.isfinite(), share, 0.0))

    return bound


def begin_again(kappa: float = 1.5) -> Bound:
    """Forget what is too long, and its path: ``share = 1`` where ``size ≤ kappa L``, else 0.

    The horizon becomes as long as the dynamics allow.

    Raises:
        ValueError: unless kappa is a number above 1: a tangent of one step is as long as its path.

    >>> begin_again(1.5)(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
    tensor([1., 0.])
    """
    if not 1 < kappa < math.inf:
        raise ValueError(f"kappa must be a number above 1, got {kappa}: else no step is remembered")

    def bound(size: Tensor, path: Tensor) -> Tensor:
        return (size <= kappa * path).to(size.dtype)  # a NaN does not fit

    return bound


def steps(before: Params, after: Params, hparams: HParams, domains: Mapping[str, Domain]) -> Tensor:
    """``‖w_{t+1} - w_t‖ / |dη_k/dx_k|``, what a step adds to the paths, shape (K,).

    Infinite, hence no bound, where a slope is 0: η cannot move there.
    """
    slopes = torch.stack(tree_leaves(mapped(slope, lines_of(hparams, domains), hparams))).abs()
    length = norm(tree_map(torch.sub, after, before))
    return torch.where(slopes > 0, length / torch.where(slopes > 0, slopes, 1.0), math.inf)


def sizes(tangent: Params) -> Tensor:
    """``‖Z_k‖`` of the K columns of ``tangent``, shape (K,)."""
    return torch.sqrt(columns.squares(tangent))
