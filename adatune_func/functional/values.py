"""The values of a run: written back into a module by name, or taken at the average."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

from ..optimizers import AveragedState
from ..state import TunerState
from ..trees import is_a
from .copies import named_buffers, named_params

#: Before the names of what a criterion has of its own.
CRITERION = "criterion."


class HasValues(Protocol):
    """Whatever has ``params`` and ``buffers``: a TunerState, a Functional."""

    @property
    def params(self) -> Any: ...
    @property
    def buffers(self) -> Any: ...


def write_back(module: nn.Module, state: HasValues, criterion: nn.Module | None = None) -> None:
    """Copy ``state.params`` and ``state.buffers`` into ``module`` in place, by name.

    Tied weights stay tied; non-persistent buffers are included. ``criterion`` is the one that
    ``functionalize`` was given, where it has parameters or buffers of its own.

    Raises:
        ValueError: when names or shapes differ from the parameters and buffers; nothing is copied
            then.
    """
    targets: dict[str, torch.Tensor] = {**named_params(module), **named_buffers(module)}
    values = {**state.params, **state.buffers}
    own = [name for name in values if name.startswith(CRITERION) and name not in targets]
    if own and criterion is not None:
        of_criterion = {**named_params(criterion), **named_buffers(criterion)}
        targets |= {CRITERION + name: t for name, t in of_criterion.items()}
    elif own:
        raise ValueError(
            f"the state holds {', '.join(own[:5])}, which the criterion brought: "
            "write_back(module, state, criterion) writes into both"
        )
    check_names("params and buffers", values, frozenset(targets))
    for name, value in values.items():
        if value.shape != targets[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} in the state and "
                f"{tuple(targets[name].shape)} in the module; a sweep's needs search.unstack"
            )
    with torch.no_grad():
        for name, value in values.items():
            targets[name].copy_(value)


def check_names(what: str, given: Iterable[str], wanted: frozenset[str]) -> None:
    """Raise ValueError, in words, unless the names are those of the module."""
    given = frozenset(given)
    if given == wanted:
        return
    missing, unknown = sorted(wanted - given), sorted(given - wanted)
    parts = [
        f"{word} {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for word, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    raise ValueError(
        f"the {what} are not those of the module: {'; '.join(parts)} "
        "(start from the params and buffers that functionalize returns)"
    )


def averages(state: TunerState) -> TunerState:
    """``state`` with the average of :func:`averaged` for its parameters: the model to use.

    BatchNorm's running statistics are those of the weights before averaging, see
    :func:`recalibrate`.

    Raises:
        TypeError: when the outermost wrapper of the run's optimizer is not :func:`averaged`.
    """
    if not is_a(state.opt_state, AveragedState):
        raise TypeError(
            "this state has no average: its optimizer's outermost wrapper is not averaged(...)"
        )
    return state._replace(params=state.opt_state.average)
