"""What ``forward`` binds to its module (``self.last = h``): taken off again, to keep calls pure.

Else an activation of a trace that has ended would be kept, and with it the trace; compiled, that
is an error of torch's. What is to go from step to step is a buffer, and what goes without being
one is refused by name.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..trees import is_a

_ABSENT: Any = object()


class Attribute(NamedTuple):
    """An attribute that forward may bind, and what it was before."""

    module: nn.Module
    name: str
    where: str
    value: Any


def submodules(module: Any) -> list[tuple[str, Any]]:
    """``(name, module)`` of a module and its parts; torch's own types say less than nothing."""
    return list(module.named_modules())


def bindable(module: nn.Module) -> list[Attribute]:
    """Plain tensors of the module and its parts, and what their methods assign to."""
    found: list[Attribute] = []
    for path, part in submodules(module):
        plain: dict[str, Any] = part.__dict__
        names = {name for name, value in plain.items() if is_a(value, Tensor)}
        names |= set(_assigned(part.__class__))
        registered = {*part._parameters, *part._buffers, *part._modules}
        for name in sorted(names - registered - set(vars(nn.Module()))):
            where = f"{path}.{name}" if path else name
            found.append(Attribute(part, name, where, plain.get(name, _ABSENT)))
    return found


def restore(attributes: list[Attribute]) -> None:
    """Bind each to what it was."""
    for module, name, _, value in attributes:
        if value is _ABSENT:
            if hasattr(module, name):
                delattr(module, name)
        else:
            setattr(module, name, value)


def check_carries_nothing(attributes: list[Attribute], call: Callable[[], Any]) -> None:
    """Raise ValueError where another call of the same leaves something else: state of its own.

    A counter or a hidden state does, an activation or a cache does not.
    """
    bound = [a for a in attributes if _now(a) is not a.value]
    if not bound:
        return
    random: Any = torch.random  # torch does not say what these two take
    left: list[list[Any]] = []
    for _ in range(2):
        with random.fork_rng():
            random.manual_seed(0)
            call()
        left.append([_now(a) for a in bound])
    for attribute, once, twice in zip(bound, *left, strict=True):
        if not _same(once, twice):
            raise ValueError(
                f"forward leaves {attribute.where} another at each call, and it is no buffer: "
                "a pure loss would forget it; register_buffer it, and it goes from step to step"
            )


def _now(attribute: Attribute) -> Any:
    return vars(attribute.module).get(attribute.name, _ABSENT)


def _same(a: Any, b: Any) -> bool:
    if is_a(a, Tensor) and is_a(b, Tensor):
        if a.shape != b.shape:
            return False
        try:
            return bool(((a == b) | (a != a)).all())
        except RuntimeError:  # vmapped: a number for each run of a sweep
            return True
    if is_a(a, tuple | list) and type(a) is type(b) and len(a) == len(b):
        return all(_same(x, y) for x, y in zip(a, b, strict=True))
    if is_a(a, int | float | str | bool | None):
        return a == b
    return True


def _assigned(kind: Any) -> Iterator[str]:
    """Names that methods of a module's class assign to, its constructor's left out."""
    bases: list[Any] = list(kind.__mro__)
    for base in bases:
        if base is nn.Module:
            return
        for name, method in base.__dict__.items():
            if name == "__init__" or not isinstance(method, FunctionType):
                continue
            for instruction in dis.get_instructions(method):
                to = instruction.argval
                if instruction.opname != "STORE_ATTR" or to.startswith("__"):
                    continue
                if not isinstance(getattr(kind, to, None), property):
                    yield to
