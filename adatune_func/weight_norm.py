"""Weight norm written out, ``w = g v / ‖v‖``, where torch's fused kernel has no right Hessian.

The kernel's backward pass divides by a ``‖v‖`` that it saved and that has no derivative, so the
second one takes it for a constant (as LayerNorm's third does, pytorch#175754). Its products in
reverse mode are off, silently, by 3 to 36 % where it was tried; forward mode it has none, and
dynamo does not trace it. Written out, all three are right, and the gradient is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

try:
    from torch.nn.utils.parametrizations import _WeightNorm as Fused  # pyright: ignore
except ImportError:  # before torch 2.1 there was the hook only
    Fused: Any = ()


vector_norm: Any = torch.linalg.vector_norm  # pyright: ignore


def weight(g: Tensor, v: Tensor, dim: int) -> Tensor:
    """``g v / ‖v‖``, the norm over all dimensions but ``dim``, over all where that is -1.

    Not by ``torch.norm_except_dim``, which has no forward mode there (pytorch#191787).
    """
    if dim == -1:
        return v * (g / vector_norm(v))
    others = [i for i in range(v.ndim) if i != dim % v.ndim]
    return v * (g / vector_norm(v, dim=others, keepdim=True))


class Written(nn.Module):
    """The parametrization of ``torch.nn.utils.parametrizations.weight_norm``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return weight(g, v, self.dim)


class WrittenHook(WeightNorm):
    """The hook of the older ``torch.nn.utils.weight_norm``."""

    def compute_weight(self, module: nn.Module) -> Any:
        g, v = (getattr(module, f"{self.name}_{part}") for part in "gv")
        return weight(g, v, self.dim)


def write_out_weight_norm(module: nn.Module) -> None:
    """Replace, in place, what calls torch's fused weight norm, whose second derivative is wrong.

    ``functionalize`` does so to its copy; a ``loss_fn`` of your own needs it once, on its module.
    Values, gradients and names of parameters stay as they are.
    """
    for parent in list(module.modules()):
        child: Any
        for name, child in list(parent.named_children()):
            if isinstance(child, Fused):
                setattr(parent, name, Written(child.dim))
        hooks: Any = vars(parent)["_forward_pre_hooks"]
        for key, hook in list(hooks.items()):
            if type(hook) is WeightNorm:
                hooks[key] = WrittenHook(hook.name, hook.dim)
