"""Kernels that have every derivative: what an exact product runs the model with.

torch's fastest kernels come with a first derivative only. They stay for whatever needs no more than
that: plain gradients, finite differences, the outer loss.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ..trees import is_tracing, math_attention
from .rewritten import Branchless, Rewritten


@contextmanager
def traceable() -> Generator[None, None, None]:
    """Run the block without questions about numbers, where a graph is traced and has none."""
    if not is_tracing():
        yield
        return
    with Branchless():
        yield


@contextmanager
def derivable() -> Generator[None, None, None]:
    """Run the block with kernels that have forward mode and a second backward pass."""
    with math_attention(), Rewritten(), traceable():
        yield
