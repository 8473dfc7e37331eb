"""Interchangeable ways to get the gradient and Hessian-vector products, ``H v = d/dε ∇L(w + ε v)``.

Each is ``hvp(grad_fn, params, batch, v) -> (grads, Hv, aux)``: ``v`` and ``Hv`` have K columns on
dim 0. In the exact ones gradient and products share one evaluation, hence one dropout mask.
"""

from __future__ import annotations

from typing import Any

import torch

from ..trees import Batch, GradFn, Params, Products, first, jvp, over_columns, tree_map, vjp
from .explained import in_words
from .kernels import derivable
from .point import Point


@in_words("forward-mode derivatives", other="reverse_over_reverse")
def forward_over_reverse(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
    """Exact: the jvp of the gradient along each column. About 2 gradients more a column.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """

    def along(column: Params) -> Any:
        return jvp(lambda p: grad_fn(p, batch), (params,), (column,), has_aux=True)

    with derivable():
        grads, products, aux = over_columns(along, v)
    return first(grads), products, first(aux)


@in_words("a second backward pass", other="forward_over_reverse")
def reverse_over_reverse(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
    """Exact: the gradient is linearised once and its pullback taken along each column (H = Hᵀ).

    Needs no forward mode, but keeps the graph of the backward pass in memory.
    """
    with derivable():
        grads, pullback, aux = vjp(lambda p: grad_fn(p, batch), params, has_aux=True)
        return grads, over_columns(lambda column: pullback(column)[0], v), aux


#: The default.
exact = forward_over_reverse


def no_curvature(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
    """``Hv = 0``: what HD does, and the yardstick for anything that costs more.

    Of a :class:`Loss` that is tuned the mixed term stays, ``∂²L/∂w∂η``, for one more pass backward
    a column: it is no curvature, and h would be 0 without it.
    """
    if isinstance(params, Point):
        return _mixed(grad_fn, params, batch, v)
    grads, aux = grad_fn(params, batch)
    return grads, tree_map(torch.zeros_like, v), aux


@in_words("forward-mode derivatives", other="reverse_over_reverse")
def _mixed(grad_fn: GradFn, point: Point, batch: Batch, v: Params) -> Products:
    def along(column: Params) -> Any:
        return jvp(
            lambda eta: grad_fn(point._replace(hparams=eta), batch),
            (point.hparams,),
            (column,),
            has_aux=True,
        )

    with derivable():
        grads, products, aux = over_columns(along, v.hparams)
    return first(grads), products, first(aux)
