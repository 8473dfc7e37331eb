"""Trees of tensors: optree under types that let NamedTuples pass, and inner products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, overload

import optree
import torch
from torch import Tensor

from .types import Params, PyTree


class OfLeaves(Protocol):
    """A function of any number of leaves, one a tree."""

    def __call__(self, *leaves: Tensor) -> Any: ...


class TreeMap(Protocol):
    """``fn`` of the leaves of trees of one structure: tensors, where ``fn`` does not say."""

    @overload
    def __call__(self, fn: Callable[[Tensor], Any], a: PyTree, /) -> Any: ...
    @overload
    def __call__(self, fn: Callable[[Tensor, Tensor], Any], a: PyTree, b: PyTree, /) -> Any: ...
    @overload
    def __call__(
        self, fn: Callable[[Tensor, Tensor, Tensor], Any], a: PyTree, b: PyTree, c: PyTree, /
    ) -> Any: ...
    @overload
    def __call__(self, fn: OfLeaves, /, *trees: PyTree) -> Any: ...
    @overload
    def __call__(self, fn: Callable[..., Any], /, *trees: PyTree) -> Any: ...


_linalg: Any = torch.linalg
tree_map: TreeMap = optree.tree_map
tree_flatten: Callable[..., tuple[list[Any], Any]] = optree.tree_flatten
tree_unflatten: Callable[..., Any] = optree.tree_unflatten
tree_paths: Callable[..., list[tuple[Any, ...]]] = optree.tree_paths


def tree_names(tree: PyTree, root: str = "") -> list[str]:
    """How each leaf is reached from ``root``, ``opt_state.exp_avg['0.weight']``, for messages."""
    accessors: list[Any] = optree.tree_accessors(tree)
    return [accessor.codify(root).removeprefix(".") for accessor in accessors]


def tree_leaves(tree: PyTree) -> list[Any]:
    """The leaves of a tree, ``None`` included, so that it can be refused in words.

    Collected by ``tree_map``: dynamo (torch 2.13) cannot trace ``tree_flatten`` and ``tree_leaves``
    of optree 0.20 over an empty dict, and a model without buffers has one.
    """
    leaves: list[Any] = []
    optree.tree_map(leaves.append, tree, none_is_leaf=True)
    return leaves


def alone(tree: PyTree) -> PyTree:
    """The mean over one rank: the tree itself."""
    return tree


def where(condition: Tensor, yes: PyTree, no: PyTree) -> PyTree:
    """``yes`` where the 0-d ``condition`` holds, else ``no``, leaf by leaf."""
    return tree_map(lambda a, b: torch.where(condition, a, b), yes, no)


def dot(a: PyTree, b: PyTree) -> Tensor:
    """``<a, b>`` over all leaves, 0-d."""
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    products: list[Tensor] = [(x * y).sum() for x, y in pairs]
    return sum(products[1:], start=products[0])


def norm(tree: PyTree) -> Tensor:
    """``‖tree‖₂`` over all leaves, 0-d."""
    return torch.sqrt(dot(tree, tree))


def all_finite(*trees: PyTree) -> Tensor:
    """Whether no number of the trees is inf or NaN, a 0-d bool; integers always are finite."""
    # One tree at a time: dynamo cannot flatten an empty dict inside a tuple.
    leaves = [part for tree in trees for leaf in tree_leaves(tree) for part in parts_of(leaf)]
    floating = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    sizes = [largest(leaf) for leaf in floating if leaf.numel()]
    return (torch.stack(sizes) < math.inf).all() if sizes else torch.ones((), dtype=torch.bool)


def largest(leaf: Tensor, dim: int | None = None) -> Tensor:
    """``max |x|``, over all or one dim; NaN where one is, so that only what is finite is < inf.

    One operation in a graph, where ``isfinite().all()`` is five. (0 · x = 0 is two, and wrong:
    inductor takes it for true.)
    """
    return _linalg.vector_norm(leaf, math.inf, dim)


def parts_of(leaf: Any) -> list[Any]:
    """``[leaf]``, or what is in it where optree sees none: in a UserDict or a dataclass."""
    if isinstance(leaf, Tensor):
        return [leaf]
    if isinstance(leaf, Mapping):
        values: list[Any] = list(leaf.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    elif is_dataclass(leaf) and not isinstance(leaf, type):
        values = [getattr(leaf, field.name) for field in fields(leaf)]
    else:
        return [leaf]
    return [part for value in values for inner in tree_leaves(value) for part in parts_of(inner)]


def scalar_like(params: Params, value: float) -> Tensor:
    """A 0-d tensor on the device of ``params``, in their dtype but at least float32.

    A step counter counts beyond 256, then, beside bfloat16 parameters.
    """
    leaf = tree_leaves(params)[0]
    dtype = torch.promote_types(leaf.dtype, torch.float32)
    return torch.full((), value, dtype=dtype, device=leaf.device)
