"""Many configurations at once: sweeps, and the search for a hyper-learning-rate.

What a run is steered by (start values, mu, beta, alpha) lives in its state as 0-d tensors, so N
runs that differ in these are one state with N rows, and one vmapped step trains them all:

    state[i] ← step(state[i], batch, val_batch)     i = 1 ... N, the same batches for all
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.func import vmap

from .hyper_update import AdditiveState
from .trees import tree_leaves, tree_map, tree_paths
from .tuner import Info, Tuner, TunerState
from .types import Batch, HParams

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
    wrap: Callable[..., Any] = lambda step: step,
) -> Sweep:
    """Train N runs side by side on the same batches; each is what it would be alone.

    A member that diverges touches no other. Random numbers (dropout) are drawn for each on its own.

    Args:
        tuner: its ``step`` moves every member, so members may come from the ``init`` of tuners that
            differ in numbers (mu, hyper_lr, alpha), not in kind.
        states: one a member, such as ``[tuner.init(params, {"lr": lr}) for lr in lrs]``.
        batches: pairs ``(batch, val_batch)``, or ``(batch,)`` with the outer loss "next_batch".
        loop: step the members one after the other instead of as one vmapped step, for models that
            vmap does not take or whose members fill the machine alone: under vmap a convolution
            becomes a grouped one. For LeNet it pays all the same (``benchmarks/population.py``).
        wrap: compile the step by ``functools.partial(torch.compile, fullgraph=True)``.

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
    return _runner(tuner, loop, wrap)(states, batches)


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
        "best_val_loss": smooth.nan_to_num(nan=float("inf")).amin(0),
        "mu": sweep.infos.mu[-1],
        "accepted": sweep.infos.accepted.double().mean(0),
    }
    numbers = {name: column.tolist() for name, column in columns.items()}
    return [dict(zip(numbers, row, strict=True)) for row in zip(*numbers.values(), strict=True)]


class Found(NamedTuple):
    """``additive(found.hyper_lr, found.alpha)``, and how it was found."""

    hyper_lr: dict[str, float]  # one a hyperparameter
    alpha: float
    table: list[dict[str, float]]  # a row a run: see ``find_hyper_lr``


def find_hyper_lr(
    tuner: Tuner,
    state: TunerState,
    batches: Batches,
    *,
    members: int = 13,
    slack: float = 0.05,
    loop: bool = False,
    wrap: Callable[..., Any] = lambda step: step,
) -> Found:
    """The largest hyper-learning-rate, then the largest alpha, with which short runs stay stable.

    A run with hyper-lr 0 gives the scale of each hypergradient, and the search is over ratios
    without units, so that it needs no range from you and is the same for SGD and Adam:

        β_k = r |η_k| / rms(h_k) ,    α = a min_k β_k / (rms(h_k) |η_k|)

    with r = 1e-4 ... 1000 first, then between the neighbours of the best, then a = 1e-5 ... 10.
    Each round restarts all runs from ``state``. A run is stable when it has no null step, a finite
    loss and no hyperparameter at 0 that started above; of the stable ones whose validation loss at
    the end is within ``slack`` of the lowest, the largest is taken. Each round has 0 among its
    ratios: where nothing helps, the answer is 0. β drifts by α for as long as a run lasts, so a
    tenth of the largest stable α is returned. What is stable for the steps of the search need not
    be for a longer run (``benchmarks/LOG.md`` has a case): let it see as many as you can pay for.

    Args:
        tuner: with the additive rule, of any hyper_lr.
        state: where every run starts, as ``tuner.init`` returns it.
        batches: one list for all runs, better as long as the run itself than short.
        members: runs a round, at least 4.
        slack: relative; more is bolder.
        loop, wrap: as :func:`sweep` takes them.

    Returns:
        What was found, and the rows of :func:`table` with ``round`` (0, 1 and 2), ``ratio``,
        ``hyper_lr.<name>``, ``alpha`` and ``stable`` (0 or 1) for a plot of the search.

    Raises:
        ValueError: when the rule is not additive, nothing is tuned, ``members`` is less than 4 or
            there is no batch.

    Source: after the learning-rate range test of Smith 2017 (arXiv 1506.01186), one level up.
    """
    if not isinstance(state.hyper_state, AdditiveState) or not state.hparams:
        raise ValueError("find_hyper_lr needs a state of the additive rule with something to tune")
    if members < 4:
        raise ValueError(f"a round needs at least 4 members, got {members}")
    batches = list(batches)
    run = _runner(tuner, loop, wrap)
    still = _runner(tuner, loop, lambda step: step)([_with(state, {}, 0.0)], batches)
    scale = _scales(state, still)

    rows: list[dict[str, float]] = []

    def search(low: float, high: float, numbers: Callable[[float], Any]) -> float:
        exponents = torch.linspace(low, high, members - 1).tolist()
        ratios = [0.0, *(10**exponent for exponent in exponents)]
        settings = [numbers(ratio) for ratio in ratios]
        result = run([_with(state, *setting) for setting in settings], batches)
        number = rows[-1]["round"] + 1 if rows else 0
        fresh = [
            {"round": number, "ratio": ratio, "alpha": alpha}
            | {f"hyper_lr.{name}": beta for name, beta in betas.items()}
            | {"stable": float(_stable(row))}
            | row
            for ratio, (betas, alpha), row in zip(ratios, settings, table(result), strict=True)
        ]
        rows.extend(fresh)
        return _largest(fresh, slack)

    def betas(ratio: float) -> dict[str, float]:
        return {name: ratio * eta / h for name, (eta, h) in scale.items()}

    ratio, gap = search(-4.0, 3.0, lambda r: (betas(r), 0.0)), 7.0 / (members - 2)
    if ratio == 0:
        return Found(betas(0.0), 0.0, rows)
    center = math.log10(ratio)
    ratio = search(center - gap, center + gap, lambda r: (betas(r), 0.0))
    unit = min(betas(ratio)[name] / (h * eta) for name, (eta, h) in scale.items())
    a = 0.1 * search(-5.0, 1.0, lambda a: (betas(ratio), a * unit))
    return Found(betas(ratio), a * unit, rows)


def _with(state: TunerState, betas: dict[str, float], alpha: float) -> TunerState:
    old = state.hyper_state
    beta = {
        name: tree_map(lambda leaf, b=betas.get(name, 0.0): torch.full_like(leaf, b), value)
        for name, value in old.beta.items()
    }
    return state._replace(hyper_state=AdditiveState(beta, torch.full_like(old.alpha, alpha)))


def _scales(state: TunerState, still: Sweep) -> dict[str, tuple[float, float]]:
    """By name ``(|η|, rms(h))`` along a run that stands still; what is 0 counts as small."""
    scales = {}
    for name, value in state.hparams.items():
        eta = max(float(leaf.abs()) for leaf in tree_leaves(value))
        h = torch.stack([leaf.double() for leaf in tree_leaves(still.infos.hypergrads[name])])
        rms = float(h[torch.isfinite(h)].square().mean().sqrt().nan_to_num())
        scales[name] = (eta or 1e-3, rms or 1.0)
    return scales


def _stable(row: dict[str, float]) -> bool:
    ends = [row[f"{name}_end"] > 0 for name in row if row[name] > 0 and f"{name}_end" in row]
    return row["accepted"] == 1 and math.isfinite(row["val_loss"]) and all(ends)


def _largest(rows: list[dict[str, float]], slack: float) -> float:
    stable = [row for row in rows if row["stable"]] or rows[:1]
    best = min(row["val_loss"] for row in stable)
    return max(row["ratio"] for row in stable if row["val_loss"] <= best + slack * abs(best))


def _named(hparams: HParams, suffix: str) -> dict[str, Any]:
    names = [".".join(map(str, path)) + suffix for path in tree_paths(hparams)]
    return dict(zip(names, tree_leaves(hparams), strict=True))


def _runner(
    tuner: Tuner, loop: bool, wrap: Callable[..., Any]
) -> Callable[[Sequence[TunerState], Batches], Sweep]:
    """A sweep with its step, so that several sweeps of one size compile once."""
    step = _looped(wrap(tuner.step)) if loop else wrap(_vmapped(tuner.step))

    def run(states: Sequence[TunerState], batches: Batches) -> Sweep:
        stacked, infos = stack(states), []
        moved = list(states) if loop else stacked
        for batch in batches:
            moved, info = step(moved, *batch)
            infos.append(info)
        if not infos:
            raise ValueError("a sweep needs at least one batch")
        return Sweep(
            stacked.hparams,
            stack(moved) if isinstance(moved, list) else moved,
            tree_map(lambda *leaves: torch.stack(leaves), *infos),
        )

    return run


def _vmapped(step: Callable[..., Any]) -> Callable[..., Any]:
    def population_step(state: TunerState, batch: Batch, val_batch: Batch = None) -> Any:
        return vmap(lambda member: step(member, batch, val_batch), randomness="different")(state)

    return population_step


def _looped(step: Callable[..., Any]) -> Callable[..., Any]:
    def population_step(states: list[TunerState], *batch: Batch) -> Any:
        moved, infos = zip(*[step(state, *batch) for state in states], strict=True)
        return list(moved), tree_map(lambda *leaves: torch.stack(leaves), *infos)

    return population_step
