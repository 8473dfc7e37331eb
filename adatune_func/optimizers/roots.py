"""A square root that can be differentiated where it is 0."""

from __future__ import annotations

import torch
from torch import Tensor


def safe_sqrt(v: Tensor) -> Tensor:
    """``√v``, with derivative 0 at v = 0 in place of 1/0; elsewhere as ``torch.sqrt``.

    An optimizer that divides by ``√v`` meets v = 0 wherever gradients were all 0 so far: units that
    never fired, rows of an embedding that no batch named. The value is right there, but the tangent
    of ``torch.sqrt`` is 0/0, which makes a column of Z NaN: it is forgotten (``info.z_reset``) and
    the hyperparameter does not move.

    >>> import torch
    >>> zero, one = torch.zeros(()), torch.ones(())
    >>> torch.func.jvp(torch.sqrt, (zero,), (zero,))[1]
    tensor(nan)
    >>> torch.func.jvp(safe_sqrt, (zero,), (one,))
    (tensor(0.), tensor(0.))
    """
    zero = v == 0
    # Both branches of a `where` are differentiated, so the root must not see the 0 either.
    return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, v)))
