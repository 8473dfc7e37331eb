"""``torch.func`` under types that say what a function takes, so that lambdas can be checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, overload

import torch.func

from . import zero_tensors
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

vmap: Vmap = torch.func.vmap
jvp: Jvp = torch.func.jvp
vjp: Vjp = torch.func.vjp
