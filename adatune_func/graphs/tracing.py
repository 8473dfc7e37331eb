"""A pure function of tensors as one flat graph, by ``make_fx`` over fake tensors.

Fake tensors have shapes and no numbers: tracing computes nothing, holds no activations and draws
nothing from the random generator.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.overrides import TorchFunctionMode

from ..trees import PyTree, tree_flatten, without_modes

_aten: Any = torch.ops.aten

#: Frames that are not the user's: torch, optree and this package.
_OURS = [str(Path(module.__file__ or "").parent) for module in (torch, optree)]
_OURS.append(str(Path(__file__).parents[1]))


class Traced(NamedTuple):
    """``module`` maps the tensor leaves of the arguments to those of ``result``."""

    module: GraphModule
    result: PyTree  # what the function returned: fake tensors, and what is no tensor as it is


class _Asked(RuntimeError):
    """A number of a tensor was asked for."""


def trace(fn: Callable[[list[Any]], PyTree], leaves: list[Any]) -> Traced:
    """``fn(leaves)`` as a graph; leaves that are no tensors are constants of it.

    Raises:
        TypeError: when ``fn`` asks for a number of a tensor, to branch on it for instance.
        ValueError: when it captures a tensor that requires grad, or its result requires grad.
    """
    results: list[PyTree] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        waiting = iter(tensors)
        result = fn([next(waiting) if isinstance(x, Tensor) else x for x in leaves])
        results.append(result)
        return [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]

    # Inductor keeps on disk what it compiles for tensors whose mode has an environment of shapes.
    shapes = ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
    mode = FakeTensorMode(allow_non_fake_inputs=True, static_shapes=True, shape_env=shapes)
    with mode:
        fakes = [_fake(x) for x in leaves if isinstance(x, Tensor)]
    traced: Any = make_fx(flat, decomposition_table=_TABLE)
    try:
        with mode:
            module: GraphModule = traced(*fakes)
    except (RuntimeError, DataDependentOutputException, DynamicOutputShapeException) as error:
        _explain(error)
        raise
    for captured in _captured(module):
        try:
            with mode, _Watch(captured):
                flat(*fakes)
        except _Used as error:
            raise ValueError(
                f"{users_line(error)}: a jitted function captures a tensor of shape "
                f"{tuple(captured.shape)} that requires grad, such as a module's parameter; its "
                "graph would keep the tensor of today. Pass it as an argument (functionalize "
                "does), or say that it is a constant by requires_grad_(False)"
            ) from None
    if any(isinstance(x, Tensor) and x.requires_grad for x in tree_flatten(results[0])[0]):
        raise ValueError(
            "a jitted function carries no autograd graph, and its result requires grad: take "
            "derivatives by torch.func inside it or around it, or call it under torch.no_grad()"
        )
    return Traced(module, results[0])


def examples(graph: Graph) -> list[Tensor]:
    """The tensors without numbers that the graph was traced with: what compilers take."""
    return [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]


def _fake(x: Tensor) -> Tensor:
    """Made anew: arguments that happen to be one tensor are two in the graph."""
    if x.is_conj() or x.is_neg():
        raise ValueError("jit takes no lazy conjugates: x.resolve_conj().resolve_neg() has numbers")
    made = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
    return made.requires_grad_(x.requires_grad)


def _zeros(size: Any, **kwargs: Any) -> Tensor:
    """A tangent that is not there, as zeros: compiled code reads it (pytorch#123996)."""
    return torch.zeros(size, dtype=kwargs.get("dtype"), device=kwargs.get("device"))


def _number(tensor: Tensor) -> Any:
    """``.item()``: of a constant its value, else an error."""
    value = tensor.constant if isinstance(tensor, FakeTensor) else tensor
    if value is None:
        raise _Asked("a number of a tensor was asked for")
    with without_modes():
        return value.item()


_TABLE: dict[Any, Callable[..., Any]] = {
    _aten._efficientzerotensor.default: _zeros,
    _aten._local_scalar_dense.default: _number,
}


def _explain(error: BaseException) -> None:
    """Raise in words what tracing cannot do."""
    if isinstance(error, DynamicOutputShapeException):
        raise TypeError(
            f"{users_line(error)}: the shape of a result depends on a tensor's values; jit takes "
            "functions whose shapes do not (torch.where in place of a mask as an index)"
        ) from error
    asked = isinstance(error, _Asked | DataDependentOutputException)
    told = ("data-dependent control flow", "calling .item()", ".numpy() is not supported")
    if asked or any(words in str(error) for words in told):
        raise TypeError(
            f"{users_line(error)}: a Python number or a branch depends on a tensor's value, which "
            "is not known when jit traces; take torch.where for a branch, and leave numbers tensors"
        ) from error


def users_line(error: BaseException) -> str:
    """``file:line (code)`` of the last frame that is the user's own."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*_OURS, "<"))
    ]
    if not frames:
        return "in a jitted function"
    return f"{frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})"


def _captured(module: GraphModule) -> list[Tensor]:
    """What the graph holds and somebody trains."""
    held = [getattr(module, str(n.target)) for n in module.graph.nodes if n.op == "get_attr"]
    return [value for value in held if isinstance(value, Tensor) and value.requires_grad]


class _Used(RuntimeError):
    """A tensor was used."""


class _Watch(TorchFunctionMode):
    """Raise where a tensor is used first."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given: list[Any] = [*args, *kwargs.values()]
        if any(x is self.tensor for x in given):
            raise _Used
        return func(*args, **kwargs)
