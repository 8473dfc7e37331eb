"""Which nodes of a graph share memory, and which of them are written to."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, Node

_aten: Any = torch.ops.aten

#: They move the running statistics, arguments 3 and 4, and do not say so in their schema.
_NORMS = [
    getattr(_aten, name).default
    for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
]


class Memory(NamedTuple):
    """``roots[node]``: the nodes whose memory it may show; ``written``: roots written to."""

    roots: dict[Node, frozenset[Node]]
    written: frozenset[Node]

    def steady(self, node: Node) -> bool:
        """Whether neither the node nor what it is computed from is ever written to."""
        seen = self.roots[node].union(*(self.roots[x] for x in node.all_input_nodes))
        return not seen & self.written


def memory(graph: Graph) -> Memory:
    """Follow views and writes through the graph."""
    roots: dict[Node, frozenset[Node]] = {}
    written: set[Node] = set()
    for node in graph.nodes:
        shown = [n for n, _ in _aliased(node)]
        if node.target is operator.getitem and _tuple_of_views(node, roots):
            shown = node.all_input_nodes
        roots[node] = frozenset().union(*(roots[n] for n in shown)) or frozenset([node])
        for target in writes(node):
            written |= roots[target]
    return Memory(roots, frozenset(written))


def _tuple_of_views(item: Node, roots: dict[Node, frozenset[Node]]) -> bool:
    (whole,) = item.all_input_nodes
    return whole not in roots[whole]


def writes(node: Node) -> list[Node]:
    """What the node writes to."""
    if node.target in _NORMS:
        return [n for n in node.args[3:5] if isinstance(n, Node)]
    return [n for n, write in _aliased(node) if write]


def _aliased(node: Node) -> Iterator[tuple[Node, bool]]:
    """Arguments whose memory the result shows, or that are written to: ``(argument, write)``."""
    schema: Any = getattr(node.target, "_schema", None)
    for i, argument in enumerate(schema.arguments if schema else ()):
        if argument.alias_info is None:
            continue
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
        values: list[Any] = value if isinstance(value, list) else [value]
        for n in values:
            if isinstance(n, Node):
                yield n, argument.alias_info.is_write
