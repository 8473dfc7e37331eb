"""What can be said about a tuner's arguments before the first step, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .compat import is_compiling
from .tree import all_finite, tree_leaves, tree_map, tree_paths
from .types import Batch, Buffers, Params, PyTree, is_a

#: Kinds of leaf that a batch never needs, and what its user meant.
_MEANT = (
    (Iterator, "an iterator: give the batch that next() takes from it"),
    (torch.utils.data.DataLoader, "a DataLoader: give one batch of it at a time"),
)


#: Why parameters have at least 32 bits.
LOST = (
    "; {dtype} rounds away an update that is small beside its weight, and a tuned lr comes down to "
    "that: train module.float(), with torch.autocast(device, torch.bfloat16) inside the loss"
)


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
            hint = "; take dict(module.named_parameters())" if is_a(leaf, _WITH_PARAMS) else ""
            raise TypeError(f"params must be a tree of tensors, found {type_name(leaf)}{hint}")
        if not leaf.is_floating_point():
            raise TypeError(
                f"params must be floating point, found {leaf.dtype}; frozen or integer "
                "tensors belong in buffers"
            )
        if leaf.layout != torch.strided or leaf.itemsize < 4:
            hint = "" if leaf.itemsize >= 4 else LOST.format(dtype=leaf.dtype)
            raise TypeError(
                "params must be dense and of 32 bits or more, found "
                f"{leaf.dtype} as {leaf.layout}{hint}"
            )
        if leaf.is_meta:
            raise ValueError(
                "params are on the meta device, which holds no numbers: load the model first, by "
                "module.to_empty(device=...) and load_state_dict"
            )
    _check_numbers(params)
    return copied(params)


_WITH_PARAMS = (nn.Module, Iterator)


def _check_numbers(params: Params) -> None:
    """No number is NaN from the start, and no tensor is two entries, which would part ways."""
    seen: dict[Any, str] = {}
    for path, leaf in zip(tree_paths(params), tree_leaves(params), strict=True):
        name = ".".join(map(str, path))
        if not bool(all_finite(leaf)):
            raise ValueError(f"params hold a number that is not finite from the start, in {name!r}")
        place = (leaf.data_ptr(), leaf.shape, leaf.stride())
        if leaf.numel() and place in seen:
            raise ValueError(
                f"params hold one tensor twice, as {seen[place]!r} and {name!r}, and would train "
                "it as two; keep one entry and use it twice in the loss"
            )
        seen[place] = name


def checked_buffers(buffers: Buffers | None) -> Buffers:
    """A detached copy of ``buffers``, a dict of tensors; empty for ``None``."""
    if not is_a(buffers, dict | None):
        raise TypeError(f"buffers must be a dict from name to tensor, got {type_name(buffers)}")
    for name, leaf in (buffers or {}).items():
        if not is_a(leaf, Tensor):
            raise TypeError(
                f"buffers must be tensors, so that a step can carry them; {name!r} is "
                f"{type_name(leaf)}: take torch.tensor({leaf!r}) or leave it out"
            )
    return copied(buffers or {})


def check_batch(batch: Batch) -> None:
    """Raise TypeError for what looks like a batch and is none, on its type alone."""
    if is_compiling():
        return
    for leaf in tree_leaves(batch):
        if is_a(leaf, np.ndarray | np.generic):
            raise TypeError(
                "a batch holds a numpy array or number, which has no derivatives and no device: "
                "take torch.as_tensor"
            )
        for kind, meant in _MEANT:
            if is_a(leaf, kind):
                raise TypeError(f"a batch holds {meant}")


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
