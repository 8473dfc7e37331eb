"""BatchNorm's running statistics at weights that no step has run on, such as an average.

A running statistic moves by ``r ← (1 - m) r + m s`` with the batch's own s. Its momentum m is not
the loss function's to tell, but r from 0 and r from c tell it, ``1 - m = (r_c - r_0) / c``; and the
mean over batches is ``mean(r_0) / m``, one pass a batch, for any loss function.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..trees import Batch, Buffers, LossFn
from .values import HasValues

State = TypeVar("State", bound=HasValues)

_STATISTICS = ("running_mean", "running_var")
_COUNT = "num_batches_tracked"


def recalibrate(loss_fn: LossFn, state: State, batches: Iterable[Batch]) -> State:
    """``state`` with BatchNorm's running statistics at its parameters: means over ``batches``.

    What ``torch.optim.swa_utils.update_bn`` does to a module: each batch counts the same, the
    statistics from before count nothing. For a state at an average of the weights::

        state = recalibrate(loss_fn, averages(state), batches)

    Where no statistics are, or none moves (a BatchNorm in eval mode), nothing changes. Other
    buffers stay as they are.

    Args:
        loss_fn: the training loss, in train mode.
        state: whatever has ``params`` and ``buffers`` and is a NamedTuple.
        batches: training batches, as ``loss_fn`` takes them.

    Raises:
        ValueError: when there are no batches, or when statistics are there and none moves.

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better
    generalization".
    """
    with torch.no_grad():
        return _recalibrated(loss_fn, state, batches)


def _recalibrated(loss_fn: LossFn, state: Any, batches: Iterable[Batch]) -> Any:
    totals: dict[str, Tensor] = {}
    shares: dict[str, Tensor] = {}
    empty: Buffers = {}
    count = 0
    for batch in batches:
        if count == 0:
            moving = _moving(loss_fn, state, batch)
            if not moving:
                return state
            empty = _filled(state.buffers, {n: torch.zeros_like(state.buffers[n]) for n in moving})
            shares = _shares(loss_fn, state.params, empty, moving, batch)
            totals = {n: torch.zeros_like(state.buffers[n]) for n in moving}
        _, moved = loss_fn(state.params, empty, batch)
        totals = {n: total + moved[n] for n, total in totals.items()}
        count += 1
    if count == 0:
        raise ValueError("recalibrate needs at least one batch")
    means = {n: total / (count * shares[n]) for n, total in totals.items()}
    return state._replace(buffers=_filled(state.buffers, means, count))


def _moving(loss_fn: LossFn, state: HasValues, batch: Batch) -> list[str]:
    """Names of the running statistics of layers that a training pass moves."""
    statistics = [n for n in state.buffers if n.rpartition(".")[2] in _STATISTICS]
    if not statistics:
        return []
    _, moved = loss_fn(state.params, state.buffers, batch)
    layers = {_layer(n) for n in statistics if not torch.equal(moved[n], state.buffers[n])}
    if not layers:
        raise ValueError(
            f"a pass moves none of the running statistics ({statistics[0]}, ...): recalibrate "
            "takes the training loss, functionalize(model, criterion, train=True)"
        )
    return [n for n in statistics if _layer(n) in layers]


def _shares(
    loss_fn: LossFn, params: Any, empty: Buffers, moving: list[str], batch: Batch
) -> dict[str, Tensor]:
    """The momentum m of each layer: what a batch's statistic counts for, 0-d."""
    random: Any = torch.random  # torch does not say what these two take
    with random.fork_rng():  # twice the same dropout masks
        seed = torch.initial_seed()
        random.manual_seed(seed)
        _, low = loss_fn(params, empty, batch)
        # As large as the statistics: else m is lost in their rounding.
        level = {n: 1 + low[n].abs().max() for n in moving}
        raised = {n: torch.zeros_like(low[n]) + level[n] for n in moving}
        random.manual_seed(seed)
        _, high = loss_fn(params, {**empty, **raised}, batch)
    return {n: 1 - ((high[n] - low[n]) / level[n]).mean() for n in moving}


def _filled(buffers: Buffers, values: dict[str, Tensor], count: int = 0) -> Buffers:
    """``buffers`` with these statistics, of ``count`` batches."""
    counters = {f"{layer}{_COUNT}" for layer in map(_layer, values)}
    counts = {n: torch.full_like(b, count) for n, b in buffers.items() if n in counters}
    return {**buffers, **values, **counts}


def _layer(name: str) -> str:
    """``"net.1."`` of ``"net.1.running_mean"``."""
    head, dot, _ = name.rpartition(".")
    return head + dot
