"""What can be said about hyperparameters and their optimizer before the first step, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..trees import HParams, Params, is_a, scalar_like, tree_leaves, tree_map, tree_paths, type_name
from .optimizer import Optimizer


def checked_hparams(
    hparams: HParams, optimizer: Optimizer, params: Params, of_loss: Mapping[str, Any] | None = None
) -> HParams:
    """``hparams`` as 0-d tensors: names known to the optimizer, values scalar.

    ``of_loss``: the names and values of the loss's own; of these a vector is a tuple of scalars.
    """
    of_loss = of_loss or {}
    _check_names(hparams, optimizer, of_loss)
    checked = {
        name: checked_of_loss(name, value, of_loss[name], params)
        if name in of_loss
        else _scalars(name, value, params)
        for name, value in hparams.items()
    }
    fixed = {name: _scalars(name, v, params) for name, v in optimizer.hparams.items()}
    _check_range({**fixed, **checked})
    own = {name: value for name, value in checked.items() if name not in of_loss}
    _check_prefixes(own, optimizer, params)
    return checked


def _check_names(hparams: HParams, optimizer: Optimizer, of_loss: Mapping[str, Any]) -> None:
    if not is_a(hparams, Mapping):
        raise TypeError(f"hparams must be a dict such as {{'lr': 0.1}}, got {type_name(hparams)}")
    both = sorted(set(optimizer.hparams) & set(of_loss))
    if both:
        raise ValueError(
            f"{', '.join(both)} is a hyperparameter of {_name(optimizer)} and of the loss: give "
            "the loss's another name"
        )
    for name in hparams:
        if name not in optimizer.hparams and name not in of_loss:
            known = ", ".join(optimizer.hparams)
            loss = f"; the loss has {', '.join(of_loss)}" if of_loss else ""
            raise ValueError(
                f"{_name(optimizer)} has no hyperparameter {name!r}; it has {known}{loss}"
            )


def _check_range(values: HParams) -> None:
    """Finite, and not below 0 where that turns descent into ascent or decay into growth."""
    for name, value in values.items():
        low = 0.0 if name in ("lr", "weight_decay") else -math.inf
        for number in map(float, tree_leaves(value)):
            if math.isinf(number):
                raise ValueError(f"{name} = {number:g} is not finite")
            if not number >= low:
                raise ValueError(f"{name} = {number:g} lies outside [{low:g}, inf]")


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


def checked_of_loss(name: str, value: Any, own: Any, params: Params) -> Any:
    """A loss's hyperparameter as 0-d tensors, in a tuple where it is a vector, as ``own`` is."""
    made, wanted = _entries(name, value, params), _entries(name, own, params)
    if tree_paths(made) != tree_paths(wanted):
        ours, theirs = (_described(entries) for entries in (made, wanted))
        raise ValueError(f"{name} is {ours} here, and in the loss {theirs}")
    return made


def _entries(name: str, value: Any, params: Params) -> Any:
    if is_a(value, Tensor | np.ndarray) and value.ndim == 1:
        value = list(value)
    if is_a(value, tuple | list):
        return tuple(_scalars(f"{name}[{i}]", v, params) for i, v in enumerate(value))
    return _scalars(name, value, params)


def _described(entries: Any) -> str:
    if is_a(entries, Mapping):
        return f"a dict of {', '.join(map(str, entries))}"
    return f"a vector of {len(entries)}" if is_a(entries, tuple) else "a number"


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
    if is_a(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = "; a schedule goes to plain(schedule=...)" if callable(value) else ""
        raise TypeError(
            f"{name} must be a number or a 0-d tensor, got {type_name(value)} {value!r}{hint}"
        )
    return scalar_like(params, float(value))


def _name(optimizer: Optimizer) -> str:
    """The factory: ``sgd`` of ``sgd.<locals>.update``; wrappers keep what they wrap."""
    return getattr(optimizer.update, "__qualname__", "the optimizer").split(".")[0]
