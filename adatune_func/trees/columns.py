"""K directions at once: trees whose leaves carry one column per tuned scalar on dim 0.

A column of a tree ``u`` has the shapes of ``u``; K of them stacked have shapes (K, *leaf.shape).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .transforms import vmap
from .tree import largest, tree_flatten, tree_leaves, tree_map, tree_unflatten
from .types import PyTree


def zeros(tree: PyTree, count: int, dtype: torch.dtype | None = None) -> PyTree:
    """``count`` zero columns of ``tree``: each leaf becomes zeros of shape (count, *leaf.shape).

    ``dtype`` is that of the columns of floating-point leaves, if not their own.

    A column lies in memory as its leaf does (channels_last, say), as the first step leaves it:
    else a compiled step would meet other strides in the second and compile again.
    """

    def of(leaf: Tensor) -> Tensor:
        strides = (leaf.numel(), *leaf.stride())
        of_its_own = dtype is None or not leaf.is_floating_point()
        kind = leaf.dtype if of_its_own else dtype
        return leaf.new_empty_strided((count, *leaf.shape), strides, dtype=kind).zero_()

    return tree_map(of, tree)


def basis(scalars: PyTree) -> PyTree:
    """The unit vectors e_1 ... e_K of a tree of K 0-d tensors: column k is 1 at the k-th leaf."""
    leaves, treedef = tree_flatten(scalars)
    units = [
        torch.stack([torch.full_like(leaf, float(i == k)) for k in range(len(leaves))])
        for i, leaf in enumerate(leaves)
    ]
    return tree_unflatten(treedef, units)


def unstack(values: Tensor, like: PyTree) -> PyTree:
    """Deal K numbers, shape (K,), out to the K leaves of ``like``."""
    return tree_unflatten(tree_flatten(like)[1], list(values.unbind(0)))


def dots(a: PyTree, columns: PyTree) -> Tensor:
    """<a, column k> over the whole tree, shape (K,)."""
    pairs = zip(tree_leaves(a), tree_leaves(columns), strict=True)
    return _total(leaf * c for leaf, c in pairs)


def squares(columns: PyTree) -> Tensor:
    """‖column k‖² over the whole tree, shape (K,)."""
    return _total(leaf.square() for leaf in tree_leaves(columns))


def finite(columns: PyTree, like: PyTree) -> PyTree:
    """Whether column k has no inf nor NaN, a 0-d bool at the k-th leaf of ``like``."""
    leaves = [leaf[..., None].flatten(1) for leaf in tree_leaves(columns) if leaf.numel()]
    if not leaves:  # a tree without tangent: plain training
        return tree_map(lambda leaf: torch.ones_like(leaf, dtype=torch.bool), like)
    sizes = torch.stack([largest(leaf, 1) for leaf in leaves])
    return unstack((sizes < math.inf).all(0), like)


def kept(columns: PyTree, keep: PyTree) -> PyTree:
    """Column k where the k-th leaf of ``keep``, a 0-d bool, holds; zeros elsewhere."""
    if not tree_leaves(keep):
        return columns
    mask = torch.stack(tree_leaves(keep))
    return tree_map(
        lambda leaf: torch.where(mask.view(-1, *(1,) * (leaf.ndim - 1)), leaf, 0.0), columns
    )


def over_columns(fn: Callable[[PyTree], Any], columns: PyTree) -> Any:
    """``fn`` of each column, results stacked on dim 0; random draws are shared by all columns.

    One column takes no vmap, under which a convolution would become a batched one. What ``fn``
    computes without its column is computed once and stacked without a copy.
    """
    if tree_leaves(columns)[0].shape[0] == 1:
        return tree_map(lambda leaf: leaf[None], fn(first(columns)))
    return vmap(fn, randomness="same")(columns)


def first(stacked: Any) -> Any:
    """Column 0 of what :func:`over_columns` returns, for what is the same in all columns."""
    return tree_map(lambda leaf: leaf[0], stacked)


def _total(leaves: Iterable[Tensor]) -> Tensor:
    """The sum of all entries column by column, shape (K,)."""
    sums = [leaf[..., None].flatten(1).sum(1) for leaf in leaves]
    return torch.stack(sums).sum(0)
