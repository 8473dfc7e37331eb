"""Kinds of arguments: what a graph is traced for. Another kind of arguments is another graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from torch import Tensor

from ..trees import PyTree, global_state, tree_flatten, tree_paths

#: Kinds of arguments before jit takes another for a mistake.
LIMIT = 8


class Kind(NamedTuple):
    """What a graph depends on."""

    structure: Any
    state: tuple[Any, ...]
    leaves: tuple[Any, ...]


def kind_of(args: PyTree) -> tuple[list[Any], Kind]:
    """The leaves of ``(args, kwargs)`` and what a graph for them depends on."""
    leaves, structure = tree_flatten(args)
    try:
        kind = Kind(structure, global_state(), tuple(map(_kind_of_leaf, leaves)))
        hash(kind)
    except TypeError:
        for path, leaf in zip(tree_paths(args), leaves, strict=True):
            if not isinstance(leaf, Hashable):
                raise TypeError(
                    f"jit takes tensors and, as constants, what is hashable; argument "
                    f"{_named(path)} is of type {type(leaf).__name__}: make it a tensor"
                ) from None
        raise
    return leaves, kind


def _kind_of_leaf(leaf: Any) -> tuple[Any, ...]:
    if not isinstance(leaf, Tensor):
        return leaf.__class__, leaf
    layout = leaf.dtype, leaf.device, leaf.shape, leaf.stride()
    lazy = leaf.is_conj(), leaf.is_neg()
    return leaf.__class__, *layout, lazy, leaf.requires_grad


def check_new(fn: Callable[..., Any], args: PyTree, now: Kind, known: list[Kind]) -> None:
    """Refuse a state that was donated before, and the ninth kind of arguments."""
    for before in known:
        if before.structure == now.structure and any(
            _is_emptied(b) and not _is_emptied(a)
            for a, b in zip(before.leaves, now.leaves, strict=True)
        ):
            raise ValueError(
                "the state was used up by an earlier call (donate=True): go on with the one that "
                "this call returned, or jit the function without donate to keep both"
            )
    if len(known) < LIMIT:
        return
    name = getattr(fn, "__qualname__", repr(fn))
    raise RuntimeError(
        f"jit has traced {name} for {LIMIT} kinds of arguments and meets another: "
        f"{_difference(args, known[-1], now)}"
    )


def _is_emptied(leaf: tuple[Any, ...]) -> bool:
    return issubclass(leaf[0], Tensor) and leaf[3] == (0,)


def _difference(args: PyTree, before: Kind, now: Kind) -> str:
    if before.structure != now.structure:
        return "the structure of its trees changed; jit the function once for each"
    if before.state != now.state:
        return "a global mode changed (grad mode, autocast, default dtype or another)"
    i = next(i for i, leaf in enumerate(now.leaves) if before.leaves[i] != leaf)
    return (
        f"argument {_named(tree_paths(args)[i])} is {_described(now.leaves[i])}, before it was "
        f"{_described(before.leaves[i])}; drop a short last batch, and pass numbers that change as "
        "tensors"
    )


def _named(path: tuple[Any, ...]) -> str:
    """The path in ``(args, kwargs)``."""
    return ".".join(map(str, path[1:]))


def _described(leaf: tuple[Any, ...]) -> str:
    if not issubclass(leaf[0], Tensor):
        return repr(leaf[1])
    _, dtype, device, shape, stride, *_ = leaf
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)} on {device} with strides {stride}"
