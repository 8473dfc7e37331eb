"""What a compiler makes of a tangent that is zero: zeros.

In forward mode whatever has no tangent (a target, a frozen weight, a constant) is given a
ZeroTensor, one without memory. Eager torch knows it by a dispatch key. A traced graph does not, and
compiled code reads the memory that is not there: ``F.mse_loss`` in an exact product ends the
process (pytorch#197067, #177261), a frozen LayerNorm fails inside dynamo and leaves its thread
without autograd. A decomposition cures the kind: whoever traces gets zeros instead, which a
compiler folds into what they are added to. Eager runs as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def _zeros(size: Sequence[int], **options: Any) -> Tensor:
    return torch.ops.aten.zeros.default(size, **options)


def materialise() -> None:
    """Trace ZeroTensors as zeros, unless this torch does so by itself. Once is enough."""
    efficient: Any = torch.ops.aten._efficientzerotensor.default  # pyright: ignore[reportPrivateUsage]
    key: Any = torch._C.DispatchKey.CompositeImplicitAutograd  # pyright: ignore[reportPrivateUsage]
    if key not in efficient.py_kernels:
        efficient.py_impl(key)(_zeros)
