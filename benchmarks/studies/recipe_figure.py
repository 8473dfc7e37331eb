"""README's first figure and table: test accuracy against the lr a run starts from, and its price.

    python -m benchmarks.studies.recipe_figure     # results/recipe.png from results/recipe.json

The last panel says what a search costs. Who tries k learning rates of a grid, chosen at random, and
keeps the best has paid k runs and has, of n in order,

    E max = Σ_i score_i C(i - 1, k - 1) / C(n, k)

which is drawn below the best mean of cosine's grid, averaged over the tasks in per cent.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from benchmarks.run import record

#: (task, optimizer) -> what README calls it, in the order of its table.
PANELS = {
    ("digits_mlp", "sgd"): "digits, MLP, SGD",
    ("digits_mlp", "adamw"): "digits, MLP, AdamW",
    ("mnist", "sgd"): "MNIST, MLP, SGD",
    ("mnist", "adamw"): "MNIST, MLP, AdamW",
    ("cifar_10", "sgd"): "CIFAR-10, small CNN, SGD",
    ("cifar_10", "adamw"): "CIFAR-10, small CNN, AdamW",
    ("fine_tuning", "sgd"): "fine-tuning, small CNN, SGD",
    ("fine_tuning", "adamw"): "fine-tuning, small CNN, AdamW",
    ("friedman", "sgd"): "regression, MLP, SGD",
    ("friedman", "adamw"): "regression, MLP, AdamW",
    ("characters", "adamw"): "Shakespeare, transformer, AdamW",
    ("characters", "muon"): "Shakespeare, transformer, Muon",
}
#: Those that have a panel.
DRAWN = (
    *(("mnist", "sgd"), ("mnist", "adamw"), ("cifar_10", "sgd"), ("cifar_10", "adamw")),
    *(("fine_tuning", "sgd"), ("friedman", "sgd"), ("characters", "adamw")),
)
STARTS = (1e-6, 1e-5, 1e-3, 0.1, 1.0)
METHODS = {
    "recipe": "adatune_func, the recipe",
    "cosine": "cosine",
    "schedule_free": "schedule-free",
    "mechanic": "Mechanic",
    "prodigy": "Prodigy",
    "d_adaptation": "D-Adaptation",
    "gen": "GeN",
}
COLOURS = ("black", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2")


class Cell(NamedTuple):
    """Of one method from one start: test accuracy in per cent, or nats, over the seeds."""

    mean: float
    worst: float
    seeds: int


Cells = dict[tuple[str, str, str, float], Cell]


def cells() -> Cells:
    """By task, optimizer, method and start."""
    rows = json.loads((record.RESULTS / "recipe.json").read_text())["rows"]
    scores: dict[tuple[str, str, str, float], list[float]] = {}
    for row in rows:
        if row["score"] is not None:  # a run that diverged to NaN
            key = (row["task"], row["optimizer"], row["method"], row["start"])
            scores.setdefault(key, []).append(row["score"])
    for key, values in _cosines().items():
        scores.setdefault(key, values)
    return {
        key: Cell(sum(its) / len(its), max(its) if key[0] == "characters" else min(its), len(its))
        for key, its in scores.items()
    }


def _cosines() -> dict[tuple[str, str, str, float], list[float]]:
    found: dict[tuple[str, str, str, float], list[float]] = {}
    for task in dict.fromkeys(task for task, _ in PANELS):
        path = record.RESULTS / f"robustness_{task}.json"
        for row in json.loads(path.read_text())["rows"] if path.exists() else []:
            if row["method"] == "cosine":
                key = (task, row["optimizer"], "cosine", row["start"])
                found.setdefault(key, []).append(row["accuracy"])
    return found


def best(its: dict[float, Cell], task: str) -> Cell:
    """The best mean of a grid, of those with the most seeds."""
    sign, most = -1 if task == "characters" else 1, max(cell.seeds for cell in its.values())
    return max(
        (cell for cell in its.values() if cell.seeds == most), key=lambda cell: sign * cell.mean
    )


def of(known: Cells, task: str, optimizer: str, method: str) -> dict[float, Cell]:
    """By start, in order."""
    its = {key[3]: cell for key, cell in known.items() if key[:3] == (task, optimizer, method)}
    return dict(sorted(its.items()))


def lines() -> list[list[str]]:
    """README's table: mean (worst seed) by start, and of the best cosine."""
    made, known = [], cells()
    for (task, optimizer), title in PANELS.items():
        ours, cosine = (of(known, task, optimizer, method) for method in ("recipe", "cosine"))
        if not set(ours) >= set(STARTS) or not cosine:
            continue
        digits = 3 if task == "characters" else 1
        unit = ", nats" if task == "characters" else ""
        told = [*(ours[start] for start in STARTS), best(cosine, task)]
        seeds = min(ours[start].seeds for start in STARTS)
        few = "" if seeds >= 3 else f", {seeds} seed{'s' * (seeds > 1)}"
        said = [f"{cell.mean:.{digits}f} ({cell.worst:.{digits}f})" for cell in told]
        if told[-1].seeds < 3:
            said[-1] += f", {told[-1].seeds} seeds"
        made.append([title + unit + few, *said])
    return made


def best_of_some(means: list[float], tries: int) -> float:
    """The expected best of so many of them, drawn without putting back."""
    ways = math.comb(len(means), tries)
    return (
        sum(
            mean * math.comb(i, tries - 1) for i, mean in enumerate(sorted(means)) if i >= tries - 1
        )
        / ways
    )


def searches(known: Cells, method: str) -> list[float]:
    """Points above the best cosine after 1, 2, ... tries, a mean over the tasks in per cent."""
    gaps: list[list[float]] = []
    for task, optimizer in PANELS:
        its, cosine = of(known, task, optimizer, method), of(known, task, optimizer, "cosine")
        if task == "characters" or not its or not cosine:
            continue
        goal, means = best(cosine, task).mean, [max(cell.mean, 0.0) for cell in its.values()]
        gaps.append([best_of_some(means, k + 1) - goal for k in range(len(means))])
    tries = min(map(len, gaps), default=0)
    return [sum(gap[k] for gap in gaps) / len(gaps) for k in range(tries)]


def paid() -> float:
    """Plain steps a step of the recipe, a mean over the tasks in per cent."""
    rows = json.loads((record.RESULTS / "recipe.json").read_text())["rows"]
    prices = {
        (row["task"], row["optimizer"]): row["products_a_step"]
        for row in rows
        if row["method"] == "recipe" and row["task"] != "characters"
    }
    return sum(prices.values()) / len(prices)


def plot() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known, drawn = cells(), {}
    figure, grid = plt.subplots(2, 4, figsize=(14, 6.6), layout="constrained")
    *axes, price = grid.flat
    for axis, panel in zip(axes, DRAWN, strict=True):
        for colour, (method, name) in zip(COLOURS, METHODS.items(), strict=True):
            its = of(known, *panel, method)
            if its:
                (drawn[name],) = axis.plot(
                    list(its), [c.mean for c in its.values()], "o-", ms=4, color=colour,
                    **_width(method),
                )  # fmt: skip
        nats = panel[0] == "characters"
        ours = of(known, *panel, "recipe").values()
        middle = sum(c.mean for c in ours) / len(ours)
        axis.set_ylim((middle + 0.4, middle - 0.1) if nats else (middle - 6, middle + 1.5))
        axis.set(xscale="log", xlabel="learning rate to start from", title=PANELS[panel])
        label = "test loss, nats (axis turned)" if nats else "test accuracy, %"
        axis.set_ylabel("test variance explained, %" if panel[0] == "friedman" else label)
    for colour, method in zip(COLOURS, METHODS, strict=True):
        gaps = searches(known, method)
        if method == "recipe":
            price.plot([paid()], gaps[:1], "*", ms=16, color=colour, zorder=5)
        else:
            price.plot(range(1, len(gaps) + 1), gaps, "o-", ms=4, color=colour, lw=1.3)
    price.set(
        ylim=(-8, 1.5),
        xticks=range(1, 5),
        xlabel="price, in plain runs",
        title="what a search of lr costs",
    )
    price.set_ylabel("points above the best cosine")
    for axis in grid.flat:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=7, frameon=False)
    figure.savefig(record.RESULTS / "recipe.png", dpi=130)


def _width(method: str) -> dict[str, Any]:
    return {"lw": 3, "zorder": 5} if method == "recipe" else {"lw": 1.3}


if __name__ == "__main__":
    plot()
