"""Structural zeros: what is 0 whatever the numbers are, such as the data's tangent.

Forward mode multiplies it through the first layer as if it were a tangent like any other:

    d(W x) = dW x + W dx,   dx = 0        W dx is a matrix product of nothing

A product with a structural zero is one, a sum with it is the other term. (Where the other factor is
inf or NaN the product in eager is NaN; the derivative is 0 all the same.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from .aliases import memory

_aten: Any = torch.ops.aten

_MADE = {_aten.zeros.default, _aten.zeros_like.default, _aten.new_zeros.default}

#: 0 where their first argument is.
_LINEAR = {
    getattr(getattr(_aten, name), overload)
    for name, overload in [
        ("view", "default"), ("_unsafe_view", "default"), ("reshape", "default"),
        ("expand", "default"), ("t", "default"), ("transpose", "int"), ("permute", "default"),
        ("unsqueeze", "default"), ("squeeze", "dim"), ("select", "int"), ("slice", "Tensor"),
        ("clone", "default"), ("_to_copy", "default"), ("neg", "default"), ("alias", "default"),
        ("detach", "default"), ("sum", "default"), ("sum", "dim_IntList"), ("mean", "default"),
        ("mean", "dim"), ("mul", "Scalar"), ("div", "Tensor"), ("div", "Scalar"),
        ("threshold_backward", "default"), ("avg_pool2d", "default"),
    ]
}  # fmt: skip

#: 0 where one of their first two arguments is.
_PRODUCTS = {
    getattr(getattr(_aten, name), overload)
    for name, overload in [
        ("mul", "Tensor"), ("mm", "default"), ("bmm", "default"), ("mv", "default"),
        ("dot", "default"), ("convolution", "default"),
    ]
}  # fmt: skip


def without_zeros(graph: Graph) -> None:
    """Drop sums with structural zeros and make products with them zeros."""
    steady = memory(graph).steady
    zeros: dict[Node, None] = {}  # in order: one function is one graph, by its text in a cache
    for node in list(graph.nodes):
        if not steady(node):
            continue
        if _is_zero(node, zeros):
            zeros[node] = None
        elif (other := _other_term(node, zeros)) is not None and _alike(node, other):
            node.replace_all_uses_with(other)
    for node in [n for n in zeros if n.target in _PRODUCTS and _meta(n).is_contiguous()]:
        with graph.inserting_before(node):
            value = _meta(node)
            made = graph.call_function(
                _aten.zeros.default,
                (list(value.shape),),
                {"dtype": value.dtype, "device": value.device},
            )
        made.meta = node.meta
        node.replace_all_uses_with(made)


def _is_zero(node: Node, zeros: dict[Node, None]) -> bool:
    args: Any = node.args
    if node.target in _MADE:
        return True
    if node.target in _LINEAR:
        return args[0] in zeros
    if node.target in _PRODUCTS:
        no_bias = node.target is not _aten.convolution.default or args[2] is None
        return no_bias and any(isinstance(a, Node) and a in zeros for a in args[:2])
    if node.target in (_aten.add.Tensor, _aten.sub.Tensor, _aten.where.self):
        return all(isinstance(a, Node) and a in zeros for a in args[-2:])
    if node.target in (_aten.stack.default, _aten.cat.default):
        return all(a in zeros for a in args[0])
    return False


def _other_term(node: Node, zeros: dict[Node, None]) -> Node | None:
    """The term that a sum with a structural zero is equal to."""
    if node.target not in (_aten.add.Tensor, _aten.sub.Tensor):
        return None
    one, two = node.args[:2]
    if two in zeros and isinstance(one, Node):
        return one
    if node.target is _aten.add.Tensor and not node.kwargs and one in zeros:
        return two if isinstance(two, Node) else None
    return None


def _alike(a: Node, b: Node) -> bool:
    one, two = _meta(a), _meta(b)
    return (
        isinstance(one, torch.Tensor)
        and isinstance(two, torch.Tensor)
        and (one.shape, one.dtype, one.stride()) == (two.shape, two.dtype, two.stride())
    )


def _meta(node: Node) -> Any:
    return node.meta.get("val")
