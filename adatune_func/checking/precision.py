"""What works in float64 and what only says so: casts are seen where torch runs them."""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..curvature import Gradient, at_values
from ..recursion import phi
from ..trees import PyTree, is_a, tree_leaves, tree_map
from .run import Run


def in_float64(tree: PyTree) -> PyTree:
    """Floating-point tensors of a tree in float64, those in a UserDict or dataclass too."""

    def double(leaf: Any) -> Any:
        if is_a(leaf, Tensor):
            return leaf.double() if leaf.is_floating_point() else leaf
        if is_a(leaf, UserDict):  # what tokenizers return is one
            twin = copy.copy(leaf)
            twin.data = in_float64(dict(leaf.data))
            return twin
        if dataclasses.is_dataclass(leaf) and not is_a(leaf, type):
            twin = copy.copy(leaf)
            for field in dataclasses.fields(leaf):
                value = getattr(leaf, field.name)
                object.__setattr__(twin, field.name, value if value is None else in_float64(value))
            return twin
        return leaf

    return tree_map(double, tree)


class _Casts(TorchDispatchMode):
    """Names of operations that took float64 and gave less; torch asks for a class here."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.found: dict[torch.dtype, str] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if any(_is_double(leaf) for leaf in tree_leaves([list(args), dict(kwargs or {})])):
            for leaf in tree_leaves(results):
                if is_a(leaf, Tensor) and leaf.is_floating_point() and not _is_double(leaf):
                    self.found.setdefault(leaf.dtype, str(func))
        return results


def casts(fn: Callable[[], Any]) -> dict[torch.dtype, str]:
    """``{dtype: operation}`` of what in ``fn()`` takes float64 and returns a lower precision."""
    with _Casts() as mode:
        fn()
    return mode.found


def at_its_precision(run: Run) -> tuple[Run, str, list[str]]:
    """The run with the precision that it really has, the name of that, and what casts to it."""
    (batch, val_batch), (u, buffers) = run.batches[0], (run.start, run.buffers)

    def step() -> None:
        grads, _ = Gradient(at_values(run.loss_fn, run.hparams), buffers)(u.params, batch)
        phi(run.optimizer, grads, u, run.hparams)

    found: dict[torch.dtype, str] = {}
    try:
        for who, fn in (
            ("loss", lambda: run.loss_fn(u.params, buffers, batch)),
            ("outer loss", lambda: run.outer_loss_fn(u.params, buffers, val_batch)),
            ("optimizer", step),
        ):
            for dtype, operation in casts(fn).items():
                found.setdefault(dtype, f"the {who} casts float64 to {_name(dtype)} ({operation})")
    except RuntimeError as error:
        if "dtype" not in str(error) and "scalar type" not in str(error):
            raise
        raise TypeError(
            "check_tangents works in float64, and the loss mixes it with a tensor of its own in "
            f"another precision: keep that in buffers, or cast it by .to(x.dtype) (torch: {error})"
        ) from error
    if not found:
        return run, "float64", []
    dtype = max(found, key=lambda dtype: torch.finfo(dtype).eps)
    return run._replace(unit=torch.finfo(dtype).eps), _name(dtype), list(found.values())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_double(leaf: Any) -> bool:
    return is_a(leaf, Tensor) and leaf.dtype == torch.float64
