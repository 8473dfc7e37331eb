"""Hyperparameters that a criterion takes by keyword; its defaults are the neutral values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..curvature import Loss
from ..trees import is_a, type_name


def with_hparams(
    loss_fn: Callable[..., Any],
    taker: Callable[..., Any],
    hparams: Mapping[str, Any],
    domains: Mapping[str, tuple[float, float]] | None,
) -> Loss:
    """``loss_fn`` as a :class:`Loss`, plain where ``taker`` has a default for each keyword.

    Raises:
        TypeError: where ``taker``, a criterion or a module, does not take one of them by keyword.
        ValueError: for a domain of something else.
    """
    if not is_a(hparams, Mapping):
        raise TypeError(f"hparams must be a dict from name to value, got {type_name(hparams)}")
    strange = sorted(set(domains or {}) - set(hparams))
    if strange:
        raise ValueError(f"domains has {', '.join(strange)}, which hparams lacks")
    defaults = _keywords(taker)
    for name in hparams:
        if defaults is not None and name not in defaults:
            known = ", ".join(defaults) or "none"
            raise TypeError(f"{_name(taker)} takes no keyword {name!r}; it takes {known}")
    neutral = defaults is not None and all(defaults[name] for name in hparams)
    return Loss(loss_fn, dict(hparams), loss_fn if neutral else None, domains)


def _keywords(taker: Callable[..., Any]) -> dict[str, bool] | None:
    """The names it takes by keyword, and whether each has a default; ``None``: any name."""
    called = taker.forward if isinstance(taker, nn.Module) else taker
    try:
        parameters = inspect.signature(called).parameters.values()
    except ValueError:  # of a builtin
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default is not p.empty for p in parameters if p.kind in kinds}


def _name(taker: Any) -> str:
    if isinstance(taker, nn.Module):
        return f"{type_name(taker)}.forward"
    return getattr(taker, "__name__", type_name(taker))
