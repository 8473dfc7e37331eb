"""The recipe against its rivals, from every start: README's figure, and the table under it.

    python -m benchmarks.studies.recipe_figure      # draws results/recipe.png

From results/recipe.json; cosine's runs from starts that its grid there leaves out are those of
``robustness.py``.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from benchmarks.run import record

#: (task, optimizer) and how README calls it.
PANELS = {
    ("digits_mlp", "sgd"): "digits, MLP, SGD",
    ("digits_mlp", "adamw"): "digits, MLP, AdamW",
    ("mnist", "sgd"): "MNIST, MLP, SGD",
    ("mnist", "adamw"): "MNIST, MLP, AdamW",
    ("cifar_10", "sgd"): "CIFAR-10, small CNN, SGD",
    ("cifar_10", "adamw"): "CIFAR-10, small CNN, AdamW",
    ("characters", "adamw"): "Shakespeare, transformer, AdamW",
}
STARTS = (1e-6, 1e-5, 1e-3, 0.1, 1.0)
METHODS = {
    "recipe": "adatune_func, the recipe",
    "cosine": "cosine",
    "schedule_free": "schedule-free",
    "mechanic": "Mechanic",
    "prodigy": "Prodigy",
    "d_adaptation": "D-Adaptation",
}


class Cell(NamedTuple):
    """Of one method from one start: test accuracy in per cent, or nats, over the seeds."""

    mean: float
    worst: float
    seeds: int


def cells() -> dict[tuple[str, str, str, float], Cell]:
    """By task, optimizer, method and start."""
    rows = json.loads((record.RESULTS / "recipe.json").read_text())["rows"]
    scores: dict[tuple[str, str, str, float], list[float]] = {}
    for row in rows:
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
    """The best mean of a grid."""
    sign = -1 if task == "characters" else 1
    return max(its.values(), key=lambda cell: sign * cell.mean)


def of(task: str, optimizer: str, method: str) -> dict[float, Cell]:
    """By start, in order."""
    its = {key[3]: cell for key, cell in cells().items() if key[:3] == (task, optimizer, method)}
    return dict(sorted(its.items()))


def lines() -> list[list[str]]:
    """README's table: mean (worst seed) by start, and of the best cosine."""
    made = []
    for (task, optimizer), title in PANELS.items():
        ours, cosine = of(task, optimizer, "recipe"), of(task, optimizer, "cosine")
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


def plot() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [panel for panel in PANELS if of(*panel, "recipe")]
    rows = -(-(len(shown) + 1) // 3)  # the legend takes the last place
    figure, grid = plt.subplots(rows, 3, figsize=(11, 3.2 * rows), layout="constrained")
    axes = list(grid.flat)
    known: dict[str, Any] = {}
    colours = ("black", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00")
    for axis, panel in zip(axes, shown, strict=False):
        for colour, (method, name) in zip(colours, METHODS.items(), strict=True):
            its = of(*panel, method)
            if its:
                style: dict[str, Any] = (
                    {"lw": 3, "zorder": 5} if method == "recipe" else {"lw": 1.3}
                )
                (known[name],) = axis.plot(
                    list(its), [c.mean for c in its.values()], "o-", ms=4, color=colour, **style
                )
        nats = panel[0] == "characters"
        ours = of(*panel, "recipe").values()
        middle = sum(c.mean for c in ours) / len(ours)
        axis.set_ylim((middle + 0.4, middle - 0.1) if nats else (middle - 6, middle + 1.5))
        axis.set(xscale="log", xlabel="learning rate to start from", title=PANELS[panel])
        axis.set_ylabel("test loss, nats (axis turned)" if nats else "test accuracy, %")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    axes[len(shown)].legend(known.values(), known.keys(), loc="center left", frameon=False)
    figure.savefig(record.RESULTS / "recipe.png", dpi=130)


if __name__ == "__main__":
    plot()
