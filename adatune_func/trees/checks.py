"""What can be said about a tuner's arguments before the first step, in words."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .tree import tree_leaves, tree_map
from .types import Params, PyTree, is_a


def check_kind(name: str, value: Any, kind: Any, examples: str) -> None:
    """Raise TypeError unless ``value`` is a ``kind``: a factory that was not called, for one."""
    if not is_a(value, kind):
        what = f"{type_name(value)} {getattr(value, '__qualname__', '')}".strip()
        hint = "; is it to be called?" if callable(value) else ""
        raise TypeError(f"{name} must be {examples}, got {what}{hint}")


def checked_params(params: Params) -> Params:
    """A detached copy of ``params``; every leaf has to be a floating-point tensor."""
    leaves = tree_leaves(params)
    if not leaves:
        raise ValueError("params is empty: there is nothing to train")
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(f"params must be a tree of tensors, found {type_name(leaf)}")
        if not leaf.is_floating_point():
            raise TypeError(
                f"params must be floating point, found {leaf.dtype}; frozen or integer "
                "tensors belong in buffers"
            )
    return copied(params)


def checked_state(opt_state: PyTree) -> PyTree:
    """``opt_state``, every leaf of which has to be floating point: jvp raises on integers."""
    for leaf in tree_leaves(opt_state):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            raise TypeError(
                "every leaf of opt_state must be a floating-point tensor, step counters too; "
                f"found {leaf.dtype if isinstance(leaf, Tensor) else type_name(leaf)}"
            )
    return copied(opt_state)


def check_bound(name: str, c: float) -> None:
    """Raise ValueError unless what is clipped to [-c, c] may keep something: c > 0."""
    if not c > 0:
        raise ValueError(f"{name} must be above 0, got {c}")


def copied(tree: PyTree) -> PyTree:
    """A detached copy that shares no memory with ``tree``."""
    return tree_map(lambda leaf: leaf.detach().clone(), tree)


def type_name(value: Any) -> str:
    """The name of a value's type, for errors."""
    return "None" if value is None else type(value).__name__
