"""A graph without what nobody reads, and without what is computed twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.fx import Graph, Node

from .aliases import memory, writes

_aten: Any = torch.ops.aten

#: New names for the same tensor: tangents and ``detach`` come wrapped in them.
_SAME = (_aten.alias.default, _aten.detach.default)


def without_dead(graph: Graph) -> None:
    """Erase nodes that nobody reads, and writes into memory that nobody reads afterwards."""
    roots = memory(graph).roots
    read: set[Node] = set()  # from the end: roots that a later node looks at
    for node in reversed(list(graph.nodes)):
        lives = node.op in ("placeholder", "output") or node.users
        for target in writes(node):
            outside = any(root.op in ("placeholder", "get_attr") for root in roots[target])
            lives = lives or outside or roots[target] & read
        if not lives:
            graph.erase_node(node)
            continue
        for n in node.all_input_nodes:
            read |= roots[n]


def without_duplicates(graph: Graph) -> None:
    """Compute once what is computed twice from the same; draws of random numbers stay apart."""
    if any(torch.Tag.inplace_view in getattr(node.target, "tags", ()) for node in graph.nodes):
        return  # shapes change in place
    known: dict[Any, Node] = {}
    steady = memory(graph).steady
    for node in list(graph.nodes):
        if node.target in _SAME:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.op == "get_attr" or (_repeatable(node) and steady(node)):
            first = known.setdefault(_key((node.target, node.args, node.kwargs)), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.erase_node(node)


def _repeatable(node: Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded not in tags


def _key(value: Any) -> Any:
    """A value that is equal for equal arguments only: 1, 1.0 and True differ."""
    if isinstance(value, Mapping):
        return _key(list(cast("Mapping[str, Any]", value).items()))
    if isinstance(value, list | tuple):
        return tuple(map(_key, cast("list[Any]", value)))
    return value.__class__, value if isinstance(value, Node) else repr(value)
