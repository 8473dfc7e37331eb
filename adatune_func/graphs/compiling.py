"""Who compiles a graph, and what spares the first call seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..trees import forget_vector_units, lookup_backend, torch_version, vector_units_believed

_aten: Any = torch.ops.aten

#: What compiles a graph for inputs of one kind.
Backend: TypeAlias = Callable[[GraphModule, list[Tensor]], Callable[..., Any]]


def compiler(backend: str | Backend, options: Mapping[str, Any] | None) -> Backend:
    """The backend by its name or itself, with its options."""
    found = lookup_backend(backend) if isinstance(backend, str) else backend
    if backend == "inductor":
        return functools.partial(_inductor, found, dict(options or {}))
    return found if options is None else functools.partial(found, config_patches=dict(options))


def _inductor(
    found: Callable[..., Any],
    options: dict[str, Any],
    module: GraphModule,
    examples: list[Tensor],
) -> Callable[..., Any]:
    """Inductor, told to believe what the processor says of its vector units, and to keep layouts.

    By itself it compiles and loads a file for each of them, some 14 s, to see whether the C++
    compiler knows them. Nearly each does; where one does not, the graph is compiled as ever. And it
    gives each convolution on a CPU its images channels_last, which costs more in transposing than
    it saves: a model that is to be channels_last can come so.
    """
    import torch._inductor.config as config

    if torch_version() < (2, 13):
        _bias_apart(module)
    if all(example.device.type == "cpu" for example in examples):
        options = {"layout_optimization": False, **options}
    units: Any = config.cpp.vec_isa_ok
    if units is not None or "cpp.vec_isa_ok" in options:
        return found(module, examples, config_patches=options)
    try:
        with vector_units_believed():
            return found(module, examples, config_patches={**options, "cpp.vec_isa_ok": True})
    except Exception:
        forget_vector_units()
        return found(module, examples, config_patches=options)


def _bias_apart(module: GraphModule) -> None:
    """``conv(x, w, b)`` as ``conv(x, w) + b`` where b was computed.

    A bias that is a column of Z is a view of what is not in memory yet, and inductor before torch
    2.13 fails on it: "LoweringException: NotImplementedError: View".
    """
    for node in list(module.graph.nodes):
        if node.target is not _aten.convolution.default or not isinstance(node.args[2], Node):
            continue
        x, w, bias, stride, *rest = node.args
        if bias.op == "placeholder":
            continue
        with module.graph.inserting_before(node):
            product = module.graph.call_function(node.target, (x, w, None, stride, *rest))
            for _ in stride:  # (C,) to (C, 1, 1), for images
                bias = module.graph.call_function(_aten.unsqueeze.default, (bias, -1))
            total = module.graph.call_function(_aten.add.Tensor, (product, bias))
        node.replace_all_uses_with(total)
        module.graph.erase_node(node)
    module.recompile()
