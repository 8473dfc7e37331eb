"""What ``marthe`` is given, checked in words before a run begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import torch

from .optimizers import Optimizer, at_params
from .rules import HyperUpdate
from .trees import check_bound, check_kind

Outer: TypeAlias = Literal["validation", "next_batch"]

#: In which Z may wait: as wide as what it is the tangent of, or with as wide a range.
WIDTHS = (None, torch.bfloat16, torch.float32, torch.float64)


def check_options(
    optimizer: Optimizer,
    outer: Any,
    clip_outer: float | None,
    hyper_update: Any,
    hvp: Any,
    mean: Any,
    z_dtype: Any,
) -> None:
    """Raise ValueError or TypeError on what does not go together or is of another kind."""
    if outer not in get_args(Outer):
        raise ValueError(f"outer must be one of {', '.join(get_args(Outer))}, got {outer!r}")
    if outer == "next_batch" and optimizer.judged is not at_params:
        raise ValueError(
            'an averaged optimizer needs outer="validation": "next_batch" has the gradient at '
            "the parameters, not at their average"
        )
    if clip_outer is not None:
        check_bound("clip_outer", clip_outer)
    check_kind("hyper_update", hyper_update, HyperUpdate, "relative(), additive() or another")
    check_kind("hvp", hvp, Callable, "a function such as exact or finite_difference()")
    check_kind("mean", mean, Callable, "replicas.mean()")
    if z_dtype not in WIDTHS:
        known = ", ".join(map(str, WIDTHS))
        raise ValueError(
            f"z_dtype must be one of {known}, got {z_dtype!r}; float16 would overflow at 65504"
        )
