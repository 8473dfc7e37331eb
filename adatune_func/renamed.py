"""Names that have moved since 0.1.0: they work until 0.3, with a warning that says the new one."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

#: What it was called in ``adatune_func``, and where it lies now.
MOVED = {
    "columns": "trees.columns",
    "constant": "discount.constant",
    "relative_rule": "rules.relative_rule",
    "types": "trees.types",
}

#: What is not there any more, and why nobody needs it.
GONE = {
    "write_out_weight_norm": "weight norm has right products as it is: leave the call out",
}


def found(name: str) -> Any:
    """What ``adatune_func.name`` was.

    Raises:
        AttributeError: for a name that never was, or that nobody needs any more.
    """
    if name in GONE:
        raise AttributeError(f"adatune_func.{name} is gone: {GONE[name]}")
    if name not in MOVED:
        raise AttributeError(f"module 'adatune_func' has no attribute {name!r}")
    words = f"adatune_func.{name} is adatune_func.{MOVED[name]} now; the old name goes with 0.3"
    warnings.warn(words, DeprecationWarning, stacklevel=3)
    package = importlib.import_module("adatune_func")
    return functools.reduce(getattr, MOVED[name].split("."), package)
