"""``torch.func`` under types that say what a function takes, so that lambdas can be checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, overload

import torch.func

from . import zero_tensors
from .compat import is_compiling, left_forward_level
from .types import PyTree

Result = TypeVar("Result")


class Vmap(Protocol):
    """``fn`` over dim 0 of each leaf."""

    def __call__(
        self,
        fn: Callable[[PyTree], Result],
        /,
        *,
        randomness: Literal["error", "same", "different"],
    ) -> Callable[[PyTree], Result]: ...


class Jvp(Protocol):
    """``(fn(*primals), tangent)``, and what else ``fn`` returns with ``has_aux``."""

    @overload
    def __call__(
        self,
        fn: Callable[[PyTree], Any],
        primals: tuple[PyTree],
        tangents: PyTree,
        /,
        *,
        has_aux: bool = False,
    ) -> tuple[Any, ...]: ...
    @overload
    def __call__(
        self, fn: Callable[..., Any], primals: tuple[PyTree, ...], tangents: PyTree, /
    ) -> tuple[Any, ...]: ...


class Vjp(Protocol):
    """``(fn(primal), pullback)``, and what else ``fn`` returns with ``has_aux``."""

    def __call__(
        self, fn: Callable[[PyTree], Any], primal: PyTree, /, *, has_aux: bool = False
    ) -> tuple[Any, ...]: ...


zero_tensors.materialise()


def _jvp(*args: Any, **options: Any) -> Any:
    """``torch.func.jvp``, also after a compiled one that failed.

    Where an operation of dynamo's graph has no forward mode, forward mode's level stays entered,
    and any later jvp of the process is taken for one inside another. Python's own count knows that
    there is none, so the level is left and the call made again.
    """
    if is_compiling():
        return torch.func.jvp(*args, **options)
    try:
        return torch.func.jvp(*args, **options)
    except RuntimeError as error:
        if "Nested forward mode AD" not in str(error) or not left_forward_level():
            raise
    return torch.func.jvp(*args, **options)


vmap: Vmap = torch.func.vmap
jvp: Jvp = _jvp
vjp: Vjp = torch.func.vjp
