"""Who compiles a graph, and what spares the first call seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor
from torch.fx import GraphModule

from ..trees import forget_vector_units, lookup_backend

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
    """Inductor, told to believe what the processor says of its vector units.

    By itself it compiles and loads a file for each of them, some 12 s, to see whether the C++
    compiler knows them. Nearly each does; where one does not, the graph is compiled as ever.
    """
    import torch._inductor.config as config

    units: Any = config.cpp.vec_isa_ok
    if units is not None or "cpp.vec_isa_ok" in options:
        return found(module, examples, config_patches=options)
    try:
        return found(module, examples, config_patches={**options, "cpp.vec_isa_ok": True})
    except Exception:
        forget_vector_units()
        return found(module, examples, config_patches=options)
