"""Functions that torch differentiates once, written with ones that it differentiates at will.

Some kernels have a gradient and no more, or a second derivative that is wrong or raises. Each has
an identity in simpler functions: the same number up to rounding, with every derivative. It may cost
more, so it takes the kernel's place only inside a product.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..trees import is_compiling


def _mse_loss(input: Tensor, target: Tensor, *legacy: Any, **options: Any) -> Tensor:
    """The mean taken outside: inside, forward mode writes into a ZeroTensor (pytorch#123996).

    And a target of integers is a number: the second derivative would be cast to its dtype.
    """
    if not target.is_floating_point():
        target = target.to(input.dtype)
    if legacy or any(
        options.get(name) is not None for name in ("size_average", "reduce", "weight")
    ):
        return F.mse_loss(input, target, *legacy, **options)
    each = F.mse_loss(input, target, reduction="none")
    return _reduced(each, options.get("reduction", "mean"))


def _huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """``δ · smooth_l1(β = δ)``, which has forward mode."""
    each = delta * F.smooth_l1_loss(input, target, reduction="none", beta=delta)
    return _reduced(each if weight is None else each * weight, reduction)


def _soft_margin_loss(input: Tensor, target: Tensor, *legacy: Any, **options: Any) -> Tensor:
    """``log(1 + exp(-y x))``."""
    if legacy or any(options.get(name) is not None for name in ("size_average", "reduce")):
        return F.soft_margin_loss(input, target, *legacy, **options)
    return _reduced(F.softplus(-target * input), options.get("reduction", "mean"))


def _reduced(each: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return each.mean()
    return each.sum() if reduction == "sum" else each


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """``relu6(x + 3) / 6``, in eager: dynamo (2.13) calls the kernel past this mode."""
    value = F.relu6(input + 3) / 6
    return input.copy_(value) if inplace else value


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``g v / ‖v‖``, the norm over all dimensions but ``dim``, over all where that is -1.

    The kernel's backward pass divides by a ``‖v‖`` that it saved and that has no derivative, so the
    second one takes it for a constant (as LayerNorm's third does, pytorch#175754). Not by
    ``torch.norm_except_dim``, which has no forward mode at -1 (pytorch#191787).
    """
    others = [i for i in range(v.ndim) if dim == -1 or i != dim]
    return v * (g / v.square().sum(others, keepdim=dim != -1).sqrt())


def _lstm(*args: Any) -> Any:
    """Without the fused kernels of oneDNN and cuDNN, for this call only: convolutions keep theirs.

    oneDNN's has no forward mode and drops its workspace in a second backward pass (pytorch#99413),
    cuDNN has none (pytorch#5261). A compiler writes the cell out by itself.
    """
    if is_compiling():
        return torch.lstm(*args)
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
        return torch.lstm(*args)


def _embedding(input: Tensor, weight: Tensor, *args: Any, **options: Any) -> Tensor:
    """With a dense gradient: a sparse one has no derivative."""
    return F.embedding(input, weight, *args[:4], **{**options, "sparse": False})


def _one_precision(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """In float32 and back, where autocast leaves a norm its bfloat16 input and float32 weights.

    The tangent of what it returns would be float32, which the next layer refuses.
    """

    def rewritten(input: Tensor, *args: Any, **options: Any) -> Tensor:
        others = [a.dtype for a in (*args, *options.values()) if isinstance(a, Tensor)]
        wide = functools.reduce(torch.promote_types, others, input.dtype)
        return norm(input.to(wide), *args, **options).to(input.dtype)

    return rewritten


def _gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """``(log v + (x - y)² / v) / 2``; torch's own asks first whether a variance is negative."""
    if not isinstance(var, Tensor):
        var = torch.full_like(input, var)
    if var.shape == input.shape[:-1]:
        var = var[..., None]
    var = (
        var + (var.clamp(min=eps) - var).detach()
    )  # its slope is that of what is clamped, as there
    each = (var.log() + (input - target).square() / var) / 2
    return _reduced(each + full * math.log(2 * math.pi) / 2, reduction)


_REWRITTEN: dict[Any, Callable[..., Any]] = {
    F.mse_loss: _mse_loss,
    F.huber_loss: _huber_loss,
    F.soft_margin_loss: _soft_margin_loss,
    F.hardsigmoid: _hardsigmoid,
    torch._weight_norm: _weight_norm,  # pyright: ignore
    torch.lstm: _lstm,
    F.embedding: _embedding,
    F.batch_norm: _one_precision(F.batch_norm),
    F.group_norm: _one_precision(F.group_norm),
    F.instance_norm: _one_precision(F.instance_norm),
    F.layer_norm: _one_precision(F.layer_norm),
}


#: What branches on numbers, for where there are none: written without the branch.
_BRANCHLESS: dict[Any, Callable[..., Any]] = {F.gaussian_nll_loss: _gaussian_nll_loss}


class Branchless(TorchFunctionMode):
    """Inside, losses that check the numbers they are given do not."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _BRANCHLESS.get(func, func)(*args, **(kwargs or {}))


class Rewritten(TorchFunctionMode):
    """Inside, the functions of this file take the place of torch's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _REWRITTEN.get(func, func)(*args, **(kwargs or {}))
