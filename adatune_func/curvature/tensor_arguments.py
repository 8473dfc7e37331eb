"""Arguments of torch's losses that are numbers to torch, and tensors where they are tuned.

``F.cross_entropy`` reads ``label_smoothing`` as a Python number, and takes its ``weight`` for a
constant. In forward mode both have, silently, the tangent 0 (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float | Tensor = 0.0,
) -> Tensor:
    """``Σ_n w_y ((1 - s) l_ny + s Σ_c w_c l_nc / (C w_y)) / Σ_n w_y`` with ``l = -log softmax``.

    torch's own, written out wherever one of s and w is a tensor.
    """
    legacy = size_average is not None or reduce is not None
    if legacy or not (isinstance(weight, Tensor) or isinstance(label_smoothing, Tensor)):
        options: dict[str, Any] = {"size_average": size_average, "reduce": reduce}
        options |= {"label_smoothing": label_smoothing, "reduction": reduction}
        return F.cross_entropy(input, target, weight, ignore_index=ignore_index, **options)
    dim = 1 if input.ndim > 1 else 0
    classes = -F.log_softmax(input, dim)
    weights = torch.ones_like(classes) if weight is None else _along(weight, classes, dim)
    classes = weights * classes
    spread = label_smoothing * classes.mean(dim)
    if target.is_floating_point():
        each = (1 - label_smoothing) * (target * classes).sum(dim) + spread
        return _reduced(each, reduction, torch.ones_like(each))
    kept = target != ignore_index
    own = torch.where(kept, target, 0).unsqueeze(dim)
    each = (1 - label_smoothing) * classes.gather(dim, own).squeeze(dim) + spread
    counted = weights.gather(dim, own).squeeze(dim)
    return _reduced(torch.where(kept, each, 0.0), reduction, torch.where(kept, counted, 0.0))


def _along(weight: Tensor, classes: Tensor, dim: int) -> Tensor:
    shape = [1] * classes.ndim
    shape[dim] = -1
    return weight.reshape(shape).expand_as(classes)


def _reduced(each: Tensor, reduction: str, counted: Tensor) -> Tensor:
    if reduction == "mean":
        return each.sum() / counted.sum()
    return each.sum() if reduction == "sum" else each


_WRITTEN_OUT: dict[Any, Callable[..., Any]] = {F.cross_entropy: _cross_entropy}


class TensorArguments(TorchFunctionMode):
    """Inside, losses of this file are differentiable in their tensor arguments."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _WRITTEN_OUT.get(func, func)(*args, **(kwargs or {}))
