"""What a function holds beside its arguments: does it reach the module that was copied?"""

from __future__ import annotations

import dis
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from ..trees import is_a, is_compiling

_DEPTH = 5  # of what holds what holds it: a helper's default's list's element

HELD = (
    "{what}, of which a copy is trained: what is read there has no gradient and never moves. Let a "
    "module return the whole loss, penalty and all, and take functionalize(that_module, None); "
    "a number that does not move (model.pad_id) goes into a variable before"
)


def holder_of(fn: Any, module: nn.Module) -> str | None:
    """The name by which ``fn`` holds ``module``, a part or a parameter of it; else ``None``."""
    sought = {id(part) for part in module.modules()} | {id(p) for p in module.parameters()}
    if is_a(fn, nn.Module) and id(fn) in sought and not list(fn.parameters()):
        return None  # a part that is the criterion: nn.CrossEntropyLoss as an attribute
    return _holder(fn, "itself", sought, set(), _DEPTH)


def first_call_watched(fn: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
    """``fn``; its first call raises, in eager, if it reads a parameter of ``module`` itself."""
    words = HELD.format(what="the loss reads parameters of the module that was given")
    params = {id(p): weakref.ref(p) for p in module.parameters()}
    seen: list[bool] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        if is_compiling() or seen:
            return fn(*args, **kwargs)
        with Watch(params, words):
            result = fn(*args, **kwargs)
        seen.append(True)
        return result

    return watched


def _holder(value: Any, name: str, sought: set[int], seen: set[int], depth: int) -> str | None:
    if id(value) in sought:
        return name
    if id(value) in seen or depth == 0:
        return None
    seen.add(id(value))
    for inner, held in _held(value):
        found = _holder(held, inner or name, sought, seen, depth - 1)
        if found:
            return found
    return None


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    """``(name, object)`` of what ``value`` holds; no name where it has none of its own."""
    if isinstance(value, FunctionType):
        if (value.__module__ or "").startswith("torch."):
            return
        yield from _captured(value)
    elif isinstance(value, MethodType):
        yield "self", value.__self__
        yield "", value.__func__
    elif is_a(value, functools.partial):
        yield from (("", held) for held in (value.func, *value.args))
        yield from value.keywords.items()
    elif is_a(value, Mapping):
        yield from (("", held) for held in value.values())
    elif is_a(value, list | tuple | set):
        yield from (("", held) for held in value)
    elif is_a(value, nn.Module):
        yield from value.named_children()
        yield from value.named_parameters()
        yield "", value.forward
        yield from value.__dict__.items()
    elif callable(value) and not is_a(value, type):
        yield "", getattr(type(value), "__call__", None)  # noqa: B004
        yield from getattr(value, "__dict__", {}).items()


def _captured(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    """Closure, defaults, and the globals that the code of ``fn`` loads."""
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield from (("", held) for held in fn.__defaults__ or ())
    yield from (fn.__kwdefaults__ or {}).items()
    for name in _loaded(fn.__code__):
        if name in fn.__globals__:
            yield name, fn.__globals__[name]


def _loaded(code: CodeType) -> Iterator[str]:
    """Globals by name, those of functions inside included; names of attributes are none."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if is_a(constant, CodeType):
            yield from _loaded(constant)


class Watch(TorchFunctionMode):
    """Raises where torch is given one of the parameters: what no inspection of code would find.

    A class, since torch calls a mode by its method.
    """

    def __init__(self, watched: dict[int, weakref.ref[nn.Parameter]], words: str) -> None:
        super().__init__()
        self.watched = watched
        self.words = words

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = (*args, *(kwargs or {}).values())
        for value in given:
            for item in value if is_a(value, list | tuple) else (value,):
                ref = self.watched.get(id(item))
                if ref is not None and ref() is item:
                    raise ValueError(self.words)
        return func(*args, **(kwargs or {}))
