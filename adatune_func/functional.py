"""From an ``nn.Module`` to a pure loss function, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .curvature import ModelLoss
from .optimizers import AveragedState
from .state import TunerState
from .trees import Batch, Buffers, is_a
from .weight_norm import write_out_weight_norm


class Functional(NamedTuple):
    """A pure loss and the values to start from, as :func:`functionalize` returns them."""

    loss_fn: ModelLoss
    params: dict[str, Tensor]
    buffers: Buffers


def functionalize(
    module: nn.Module, criterion: Callable[..., Tensor], train: bool = True
) -> Functional:
    """Return ``(loss_fn, params, buffers)`` with ``loss_fn = criterion(module(*inputs), target)``.

    ``loss_fn(params, buffers, batch) -> (loss, buffers)`` is pure: it takes ``batch = (*inputs,
    target)`` and returns the buffers after the forward pass (running statistics, counters) instead
    of changing them. ``params`` are the parameters with ``requires_grad``; frozen ones travel with
    ``buffers``. Both are detached copies, and the module itself is copied: a later
    ``module.eval()`` or optimizer step changes nothing here. Tied weights are one entry.

    Args:
        module: any module whose forward is traceable by ``torch.func.functional_call``.
        criterion: ``criterion(output, target)`` returning a scalar, such as ``F.cross_entropy``.
        train: the mode in which the copy is fixed; ``False`` gives an eval-mode loss, for instance
            as ``val_loss_fn`` (not exact with BatchNorm: the path through the running statistics
            is left out).

    Raises:
        ValueError: from ``loss_fn``, when its params and buffers are not those of the module.
    """
    module = copy.deepcopy(module).train(train)
    write_out_weight_norm(module)
    params = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
    frozen = {n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad}
    running = {n: b.detach().clone() for n, b in module.named_buffers()}
    param_names, buffer_names = frozenset(params), frozenset({**frozen, **running})
    module.requires_grad_(False)

    def model_fn(params: dict[str, Tensor], buffers: Buffers, batch: Batch) -> tuple[Any, Buffers]:
        _check_names("params", params, param_names)
        _check_names("buffers", buffers, buffer_names)
        # BatchNorm writes into its buffers: give it copies, so that the caller's stay as they are.
        buffers = {n: b.clone() if n in running else b for n, b in buffers.items()}
        *inputs, _ = batch
        return functional_call(module, {**params, **buffers}, tuple(inputs)), buffers

    def batch_criterion(output: Any, batch: Batch) -> Tensor:
        return criterion(output, batch[-1])

    return Functional(ModelLoss(model_fn, batch_criterion), params, {**frozen, **running})


class HasValues(Protocol):
    """Whatever has ``params`` and ``buffers``: a TunerState, a Functional."""

    @property
    def params(self) -> Any: ...
    @property
    def buffers(self) -> Any: ...


def write_back(module: nn.Module, state: HasValues) -> None:
    """Copy ``state.params`` and ``state.buffers`` into ``module`` in place, by name.

    Tied weights stay tied; non-persistent buffers are included.

    Raises:
        ValueError: when names or shapes differ from the module's parameters and buffers; nothing is
            copied then.
    """
    targets = dict([*module.named_parameters(), *module.named_buffers()])
    values = {**state.params, **state.buffers}
    _check_names("params and buffers", values, frozenset(targets))
    for name, value in values.items():
        if value.shape != targets[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} in the state and "
                f"{tuple(targets[name].shape)} in the module; a sweep's needs search.unstack"
            )
    with torch.no_grad():
        for name, value in values.items():
            targets[name].copy_(value)


def _check_names(what: str, given: Iterable[str], wanted: frozenset[str]) -> None:
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

    Raises:
        TypeError: when the outermost wrapper of the run's optimizer is not :func:`averaged`.
    """
    if not is_a(state.opt_state, AveragedState):
        raise TypeError(
            "this state has no average: its optimizer's outermost wrapper is not averaged(...)"
        )
    return state._replace(params=state.opt_state.average)
