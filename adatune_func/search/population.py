"""Many configurations at once.

What a run is steered by (start values, mu, beta, alpha) lives in its state as 0-d tensors, so N
runs that differ in these are one state with N rows, and one vmapped step trains them all:

    state[i] ← step(state[i], batch, val_batch)     i = 1 ... N, the same batches for all
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from ..state import Info, Tuner, TunerState
from ..trees import Batch, HParams, tree_leaves, tree_map, tree_paths, vmap

#: ``(batch, val_batch)``, or ``(batch,)`` where the outer loss is "next_batch".
Batches: TypeAlias = Iterable[Sequence[Batch]]


class Sweep(NamedTuple):
    """What N runs of T steps lead to."""

    start: HParams  # the hyperparameters at the start, each leaf of shape (N,)
    state: TunerState  # the states at the end, N on dim 0 of each leaf; see ``unstack``
    infos: Info  # each leaf of shape (T, N)


def stack(states: Sequence[TunerState]) -> TunerState:
    """N states as one with N on dim 0 of each leaf.

    Raises:
        ValueError: when there is none, or when they differ in structure or in a leaf's shape.
    """
    if not states:
        raise ValueError("a population needs at least one state")
    paths, first = tree_paths(states[0]), tree_leaves(states[0])
    for i, state in enumerate(states):
        if tree_paths(state) != paths:
            raise ValueError(
                f"states 0 and {i} differ in structure; what is tuned and the kinds of mu, rule "
                "and optimizer have to be the same, only their numbers may differ"
            )
        for path, one, other in zip(paths, first, tree_leaves(state), strict=True):
            if one.shape != other.shape:
                raise ValueError(
                    f"{'.'.join(map(str, path))} has shape {tuple(one.shape)} in state 0 and "
                    f"{tuple(other.shape)} in state {i}"
                )
    return tree_map(lambda *leaves: torch.stack(leaves), *states)


def unstack(state: TunerState) -> list[TunerState]:
    """The N states of a stacked one, views of its memory."""
    count = tree_leaves(state)[0].shape[0]
    return [tree_map(lambda leaf, i=i: leaf[i], state) for i in range(count)]


def sweep(
    tuner: Tuner,
    states: Sequence[TunerState],
    batches: Batches,
    *,
    loop: bool = False,
    wrap: Callable[[Any], Any] = lambda step: step,
) -> Sweep:
    """Train N runs side by side on the same batches; each is what it would be alone.

    A member that diverges touches no other. Random numbers (dropout) are drawn for each on its own.

    Args:
        tuner: its ``step`` moves every member. Members may come from the ``init`` of tuners that
            differ in numbers that the state holds: what is tuned, mu, hyper_lr, alpha, and
            ``relative``'s step, halving and decays. All else (longest, clip_outer, domains, what of
            the optimizer is not tuned) is this tuner's for all.
        states: one a member, such as ``[tuner.init(params, {"lr": lr}) for lr in lrs]``.
        batches: pairs ``(batch, val_batch)``, or ``(batch,)`` with the outer loss "next_batch".
        loop: step the members one after the other instead of as one vmapped step, for models that
            vmap does not take or whose members fill the machine alone: under vmap a convolution
            becomes a grouped one. For LeNet it pays all the same
            (``benchmarks/studies/population.py``).
        wrap: what to make of the step, such as :func:`adatune_func.jit`, which compiles it.

    Raises:
        ValueError: when there is no state or no batch, or states do not go together.

    >>> from adatune_func import additive, marthe, sgd
    >>> loss_fn = lambda params, buffers, batch: ((params["w"] - batch).square().sum(), buffers)
    >>> tuner = marthe(loss_fn, sgd(), hyper_update=additive(1e-3))
    >>> states = [tuner.init({"w": torch.zeros(2)}, {"lr": lr}) for lr in (0.1, 0.2)]
    >>> batch = torch.ones(2)
    >>> [round(row["loss"], 3) for row in table(sweep(tuner, states, [(batch, batch)] * 10))]
    [0.012, 0.0]
    """
    return runner(tuner, loop, wrap)(states, batches)


def table(sweep: Sweep, tail: float = 0.1) -> list[dict[str, float]]:
    """One row a member, plain floats: start and end of each hyperparameter and how it went.

    ``lr`` and ``lr_end`` (``lr.head`` by prefix), ``loss`` and ``val_loss`` as means over the last
    ``tail`` of the steps, ``best_val_loss`` as the lowest such mean along the run, ``mu`` at the
    last step, and ``accepted``, the share of steps that were no null steps.
    """
    steps = sweep.infos.loss.shape[0]
    window = max(round(tail * steps), 1)
    smooth = sweep.infos.val_loss.double().unfold(0, window, 1).mean(-1)
    columns = {
        **_named(sweep.start, ""),
        **_named(sweep.state.hparams, "_end"),
        "loss": sweep.infos.loss[-window:].double().mean(0),
        "val_loss": smooth[-1],
        "best_val_loss": torch.where(smooth.isnan(), float("inf"), smooth).amin(0),
        "mu": sweep.infos.mu[-1],
        "accepted": sweep.infos.accepted.double().mean(0),
    }
    numbers = {name: [float(x) for x in column] for name, column in columns.items()}
    return [dict(zip(numbers, row, strict=True)) for row in zip(*numbers.values(), strict=True)]


def _named(hparams: HParams, suffix: str) -> dict[str, Any]:
    names = [".".join(map(str, path)) + suffix for path in tree_paths(hparams)]
    return dict(zip(names, tree_leaves(hparams), strict=True))


def runner(
    tuner: Tuner, loop: bool, wrap: Callable[[Any], Any]
) -> Callable[[Sequence[TunerState], Batches], Sweep]:
    """A sweep with its step, so that several sweeps of one size compile once."""
    step = looped(wrap(tuner.step)) if loop else wrap(vmapped(tuner.step))

    def run(states: Sequence[TunerState], batches: Batches) -> Sweep:
        stacked = stack(states)
        infos: list[Info] = []
        moved: Any = list(states) if loop else stacked
        for batch in batches:
            moved, info = step(moved, *batch)
            infos.append(info)
        if not infos:
            raise ValueError("a sweep needs at least one batch")
        return Sweep(
            stacked.hparams,
            stack(moved) if loop else moved,
            tree_map(lambda *leaves: torch.stack(leaves), *infos),
        )

    return run


def vmapped(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step of a stacked state."""

    def population_step(state: TunerState, batch: Batch, val_batch: Batch = None) -> Any:
        return vmap(lambda member: step(member, batch, val_batch), randomness="different")(state)

    return population_step


def looped(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step of a list of states."""

    def population_step(states: list[TunerState], *batch: Batch) -> Any:
        moved, infos = zip(*[step(state, *batch) for state in states], strict=True)
        return list(moved), tree_map(lambda *leaves: torch.stack(leaves), *infos)

    return population_step
