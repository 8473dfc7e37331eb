"""What the papers call RTHO and HD: :func:`marthe` with other settings."""

from __future__ import annotations

from typing import Any

from .curvature import no_curvature
from .optimizers import Optimizer
from .state import Tuner
from .trees import LossFn
from .tuner import marthe


def rtho(loss_fn: LossFn, optimizer: Optimizer, **kwargs: Any) -> Tuner:
    """:func:`marthe` with ``mu = 1``: the derivative of the whole run so far.

    Source: Franceschi et al. 2017, arXiv 1703.01785.
    """
    defaults: dict[str, Any] = {"mu": 1.0}
    return marthe(loss_fn, optimizer, **defaults | kwargs)


def hd(loss_fn: LossFn, optimizer: Optimizer, **kwargs: Any) -> Tuner:
    """:func:`marthe` with ``mu = 0``, no curvature and "next_batch": the price of plain training.

    With sgd and the additive rule ``lr_t = lr_{t-1} + β <g_t, g_{t-1}>``. What stands in a
    :class:`Loss` is tuned for a gradient of its plain loss and one more pass backward a column.
    Source: Baydin et al. 2018, "Online learning rate adaptation with hypergradient descent".
    """
    defaults: dict[str, Any] = {"mu": 0.0, "hvp": no_curvature, "outer": "next_batch"}
    return marthe(loss_fn, optimizer, **defaults | kwargs)
