"""What differs between versions of torch, in one place. The oldest is 2.0."""

from __future__ import annotations

from collections.abc import Callable

import torch


def _never() -> bool:
    return False


#: torch 2.0 has no ``torch.compiler``, and no step compiles there.
is_compiling: Callable[[], bool] = getattr(getattr(torch, "compiler", None), "is_compiling", _never)
