"""The search for a hyper-learning-rate, and what it is made of: sweeps of many configurations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..rules import AdditiveState
from ..state import Tuner, TunerState
from ..trees import tree_leaves, tree_map
from .population import Batches, Sweep, runner, table


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
    adapt: bool = True,
    loop: bool = False,
    wrap: Callable[[Any], Any] = lambda step: step,
) -> Found:
    """The hyper-learning-rate, then the alpha, a step below the largest that short runs stand.

    A run with hyper-lr 0 gives the scale of each hypergradient, and the search is over ratios
    without units, so that it needs no range from you and is the same for SGD and Adam:

        β_k = r |η_k| / rms(h_k) ,    α = a min_k β_k / (rms(h_k) |η_k|)

    with r = 1e-4 ... 1000 first, then between the neighbours of the best, then a = 1e-5 ... 10.
    Each round restarts all runs from ``state``. A run is stable when no more than a twentieth of
    its steps are null, its loss is finite and no hyperparameter that started above 0 ends there; of
    the stable ones whose validation loss at the end is within ``slack`` of the lowest, the largest
    is taken. Each round has 0 among its ratios: where nothing helps, the answer is 0. Other batches
    may be less kind, so a third of the largest stable β is returned; β drifts by α for as long as a
    run lasts, so a tenth of the largest stable α. What is stable for the steps of the search need
    not be for a longer run (``benchmarks/LOG.md``): let it see several times 1 / (1 - mu).

    Args:
        tuner: with the additive rule, of any hyper_lr.
        state: where every run starts, as ``tuner.init`` returns it.
        batches: one list for all runs, several times 1 / (1 - mu) long: h grows until then.
        members: runs a round, at least 4.
        slack: relative; more is bolder.
        adapt: search for alpha too; else it is 0, the safe choice, at two thirds of the price.
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
    run = runner(tuner, loop, wrap)
    still = runner(tuner, loop, lambda step: step)([_with(state, {}, 0.0)], batches)
    scale = _scales(state, still)

    rows: list[dict[str, float]] = []

    def search(low: float, high: float, numbers: Callable[[float], Any]) -> float:
        exponents = map(float, torch.linspace(low, high, members - 1))
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
    ratio = search(center - gap, center + gap, lambda r: (betas(r), 0.0)) / 3
    if not adapt or ratio == 0:
        return Found(betas(ratio), 0.0, rows)
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
    scales: dict[str, tuple[float, float]] = {}
    for name, value in state.hparams.items():
        eta = max(float(leaf.abs()) for leaf in tree_leaves(value))
        h = torch.stack([leaf.double() for leaf in tree_leaves(still.infos.hypergrads[name])])
        rms = float(h[torch.isfinite(h)].square().mean().sqrt().nan_to_num())
        scales[name] = (eta or 1e-3, rms or 1.0)
    return scales


def _stable(row: dict[str, float]) -> bool:
    ends = [row[f"{name}_end"] > 0 for name in row if row[name] > 0 and f"{name}_end" in row]
    return row["accepted"] >= 0.95 and math.isfinite(row["val_loss"]) and all(ends)


def _largest(rows: list[dict[str, float]], slack: float) -> float:
    stable = [row for row in rows if row["stable"]] or rows[:1]
    best = min(row["val_loss"] for row in stable)
    return max(row["ratio"] for row in stable if row["val_loss"] <= best + slack * abs(best))
