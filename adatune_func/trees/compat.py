"""What differs between versions of torch, in one place. The oldest is 2.0."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch


def _never() -> bool:
    return False


#: torch 2.0 has no ``torch.compiler``, and no step compiles there.
is_compiling: Callable[[], bool] = getattr(getattr(torch, "compiler", None), "is_compiling", _never)

try:  # torch 2.3 and newer
    import torch.nn.attention as _of_torch

    _attention: Any = _of_torch

    def math_attention() -> AbstractContextManager[Any]:
        """``scaled_dot_product_attention`` as plain matrix products, differentiable at will."""
        return _attention.sdpa_kernel(_attention.SDPBackend.MATH)

except ImportError:

    def math_attention() -> AbstractContextManager[Any]:
        """``scaled_dot_product_attention`` as plain matrix products, differentiable at will."""
        cuda: Any = torch.backends.cuda  # the flags of the CPU's kernels are kept there as well
        return cuda.sdp_kernel(enable_flash=False, enable_math=True, enable_mem_efficient=False)
