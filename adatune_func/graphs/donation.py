"""New values in the memory of old ones: a graph that ends by writing results into its inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from .aliases import memory

_aten: Any = torch.ops.aten


def donated(graph: Graph, count: int) -> list[int]:
    """Write the first ``count`` results into the first ``count`` inputs, where both lie alike.

    These results are then returned no longer; their numbers are what this function returns.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"][:count]
    (output,) = (node for node in graph.nodes if node.op == "output")
    results: list[Any] = list(output.args[0])
    chosen = [i for i in range(count) if _fits(inputs[i], results[i])]
    taken = {inputs[i] for i in chosen}
    roots = memory(graph).roots
    with graph.inserting_before(output):
        for i, value in enumerate(results):
            # What shows an input's old value has to be read before that is written over.
            kept = i in chosen and value is inputs[i]
            if isinstance(value, Node) and not kept and roots[value] & taken:
                results[i] = graph.call_function(_aten.clone.default, (value,))
        for i in chosen:
            if results[i] is not inputs[i]:
                graph.call_function(_aten.copy_.default, (inputs[i], results[i]))
    output.args = (_without(results, chosen),)
    return chosen


def _without(values: Sequence[Any], chosen: Sequence[int]) -> list[Any]:
    return [value for i, value in enumerate(values) if i not in set(chosen)]


def _fits(old: Node, new: Any) -> bool:
    if not isinstance(new, Node):
        return False
    a, b = old.meta["val"], new.meta.get("val")
    alike = isinstance(b, Tensor) and (a.shape, a.dtype, a.stride(), a.device) == (
        b.shape,
        b.dtype,
        b.stride(),
        b.device,
    )
    return alike and not a.requires_grad and _dense(a)


def _dense(value: Tensor) -> bool:
    """Whether each element has a place of its own (an expanded tensor's have not)."""
    return all(
        size == 1 or stride > 0 for size, stride in zip(value.shape, value.stride(), strict=True)
    )


def apart(tensors: list[Tensor], chosen: Iterable[int]) -> list[Tensor]:
    """The tensors, with copies of those chosen that share their memory with another."""
    places = Counter(x.untyped_storage().data_ptr() for x in tensors)
    shared = {i for i in chosen if places[tensors[i].untyped_storage().data_ptr()] > 1}
    return [_copied(x) if i in shared else x for i, x in enumerate(tensors)]


def _copied(x: Tensor) -> Tensor:
    """A copy with the same strides, those of an expanded tensor too."""
    pairs = zip(x.shape, x.stride(), strict=True)
    span = 1 + sum((size - 1) * stride for size, stride in pairs) if x.numel() else 0
    made = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
    made.as_strided((span,), (1,)).copy_(x.as_strided((span,), (1,)))
    return made
