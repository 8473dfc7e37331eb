"""What wraps an optimizer and is an optimizer again: clipping.

The wrapped update is differentiated as a whole, so clipping acts on tangents as it must: a clipped
entry passes nothing on, a rescaled gradient passes the derivative of its norm.
"""

from __future__ import annotations

import functools

from ..trees import HParams, Params, PyTree, check_bound, dot, tree_map
from .optimizer import Optimizer
from .roots import safe_sqrt


def clip_grads(optimizer: Optimizer, c: float) -> Optimizer:
    """Clip each entry of the gradient to ``[-c, c]``, as ``clip_grad_value_`` does.

    Raises:
        ValueError: unless c > 0.
    """
    check_bound("c", c)

    @functools.wraps(optimizer.update)
    def update(
        grads: Params, state: PyTree, params: Params, hparams: HParams
    ) -> tuple[Params, PyTree]:
        return optimizer.update(tree_map(lambda g: g.clamp(-c, c), grads), state, params, hparams)

    return optimizer._replace(update=update)


def clip_grad_norm(optimizer: Optimizer, c: float) -> Optimizer:
    """Scale the gradient by ``min(1, c / (‖g‖₂ + 1e-6))`` over the tree, as ``clip_grad_norm_``.

    Raises:
        ValueError: unless c > 0.
    """
    check_bound("c", c)

    @functools.wraps(optimizer.update)
    def update(
        grads: Params, state: PyTree, params: Params, hparams: HParams
    ) -> tuple[Params, PyTree]:
        square = dot(grads, grads)
        scale = (c / (safe_sqrt(square) + 1e-6)).clamp(max=1.0)
        return optimizer.update(tree_map(lambda g: scale * g, grads), state, params, hparams)

    return optimizer._replace(update=update)
