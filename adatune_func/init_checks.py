"""What can be said about a tuner's arguments before the first step, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .optimizers import Optimizer
from .trees import scalar_like, tree_leaves, tree_map
from .types import HParams, Params, PyTree, is_a


def check_kind(name: str, value: Any, kind: Any, examples: str) -> None:
    """Raise TypeError unless ``value`` is a ``kind``: a factory that was not called, for one."""
    if not is_a(value, kind):
        what = f"{_kind(value)} {getattr(value, '__qualname__', '')}".strip()
        hint = "; is it to be called?" if callable(value) else ""
        raise TypeError(f"{name} must be {examples}, got {what}{hint}")


def checked_params(params: Params) -> Params:
    """A detached copy of ``params``; every leaf has to be a floating-point tensor."""
    leaves = tree_leaves(params)
    if not leaves:
        raise ValueError("params is empty: there is nothing to train")
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(f"params must be a tree of tensors, found {_kind(leaf)}")
        if not leaf.is_floating_point():
            raise TypeError(
                f"params must be floating point, found {leaf.dtype}; frozen or integer "
                "tensors belong in buffers"
            )
    return copied(params)


def checked_hparams(hparams: HParams, optimizer: Optimizer, params: Params) -> HParams:
    """``hparams`` as 0-d tensors: names known to the optimizer, values scalar."""
    if not is_a(hparams, Mapping):
        raise TypeError(f"hparams must be a dict such as {{'lr': 0.1}}, got {_kind(hparams)}")
    for name in hparams:
        if name not in optimizer.hparams:
            known = ", ".join(optimizer.hparams)
            raise ValueError(f"{_name(optimizer)} has no hyperparameter {name!r}; it has {known}")
    checked = {name: _scalars(name, value, params) for name, value in hparams.items()}
    _check_prefixes(checked, optimizer, params)
    return checked


def _check_prefixes(hparams: HParams, optimizer: Optimizer, params: Params) -> None:
    """A step on zero gradients, where a value is a dict: does this optimizer take these?"""
    values = {**optimizer.hparams, **hparams}
    dicts = [name for name, value in values.items() if isinstance(value, Mapping)]
    if not dicts:
        return
    opt_state = optimizer.init(params)
    try:
        optimizer.update(tree_map(torch.zeros_like, params), opt_state, params, values)
    except TypeError as error:
        raise TypeError(
            f"{_name(optimizer)} takes one number for {dicts[0]}, not a dict by name prefix; wrap "
            f"it in by_prefix({_name(optimizer)}(...)) (Python: {error})"
        ) from error


def checked_state(opt_state: PyTree) -> PyTree:
    """``opt_state``, every leaf of which has to be floating point: jvp raises on integers."""
    for leaf in tree_leaves(opt_state):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            raise TypeError(
                "every leaf of opt_state must be a floating-point tensor, step counters too; "
                f"found {leaf.dtype if isinstance(leaf, Tensor) else _kind(leaf)}"
            )
    return copied(opt_state)


def check_bound(name: str, c: float) -> None:
    """Raise ValueError unless what is clipped to [-c, c] may keep something: c > 0."""
    if not c > 0:
        raise ValueError(f"{name} must be above 0, got {c}")


def copied(tree: PyTree) -> PyTree:
    """A detached copy that shares no memory with ``tree``."""
    return tree_map(lambda leaf: leaf.detach().clone(), tree)


def _scalars(name: str, value: Any, params: Params) -> Any:
    if is_a(value, Mapping):
        return {prefix: _scalars(f"{name}[{prefix!r}]", v, params) for prefix, v in value.items()}
    if isinstance(value, Tensor):
        if value.ndim != 0:
            raise ValueError(f"{name} must be a scalar, got shape {tuple(value.shape)}")
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {value.dtype}")
        like = scalar_like(params, 0.0)
        return value.detach().clone().to(dtype=like.dtype, device=like.device)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number or a 0-d tensor, got {_kind(value)} {value!r}")
    return scalar_like(params, float(value))


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _name(optimizer: Optimizer) -> str:
    """The factory: ``sgd`` of ``sgd.<locals>.update``; wrappers keep what they wrap."""
    return getattr(optimizer.update, "__qualname__", "the optimizer").split(".")[0]
