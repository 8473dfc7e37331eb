"""Names that are not in the package, and what to write in their place.

Those that have moved since 0.1.0 work until 0.3, with a warning that says the new one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
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

#: What AdaTune's optimizers are here; its other names are in docs/from_adatune.md.
OF_ADATUNE = {
    "MuSGD": "marthe(loss_fn, sgd())",
    "MuAdam": "marthe(loss_fn, adam(eps=1e-4))",
    "SGDHD": "hd(loss_fn, sgd())",
    "AdamHD": "hd(loss_fn, adam())",
}


def found(name: str) -> Any:
    """What ``adatune_func.name`` was.

    Raises:
        AttributeError: for a name that never was, that nobody needs any more, or that is AdaTune's;
            for a part that is imported by itself.
    """
    if name in GONE:
        raise AttributeError(f"adatune_func.{name} is gone: {GONE[name]}")
    if name in OF_ADATUNE:
        raise AttributeError(f"AdaTune's {name} is adatune_func.{OF_ADATUNE[name]} here")
    if name not in MOVED:
        missing = f"module 'adatune_func' has no attribute {name!r}"
        if not name.startswith("_") and importlib.util.find_spec(f"adatune_func.{name}"):
            missing += f" before `from adatune_func import {name}`"
        raise AttributeError(missing)
    words = f"adatune_func.{name} is adatune_func.{MOVED[name]} now; the old name goes with 0.3"
    warnings.warn(words, DeprecationWarning, stacklevel=3)
    package = importlib.import_module("adatune_func")
    return functools.reduce(getattr, MOVED[name].split("."), package)
