"""Hyperparameters inside the loss: the figure and the table of docs/loss_hyperparameters.md.

    python -m benchmarks.studies.loss_figure      # draws results/loss_hparams.png, writes the table

From results/loss_hparams.json. A test compares the page with what this module would write.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.run import record
from benchmarks.studies.loss_cases import CASES
from benchmarks.studies.readme import MARKED, grid

PAGE = Path(__file__).parents[2] / "docs" / "loss_hyperparameters.md"

#: How the page calls each case, and what a panel's axis says.
TITLES = {
    "bootstrap": ("40 % wrong labels, bootstrapping", "trust in the labels"),
    "smoothing": ("40 % wrong labels, smoothing", "share of the uniform target"),
    "correction": ("40 % wrong labels, corrected likelihood", "share of labels drawn anew"),
    "tasks": ("digit, 40 % wrong, and its pair, clean", "weight of the pair"),
    "mixup": ("1,000 images, mixup", "strength"),
    "imbalance": ("imbalance, a weight per class", "weights"),
    "power": ("imbalance, weights n^-power", "power"),
}


class Cell(NamedTuple):
    """Accuracy on the test images in per cent over the seeds."""

    mean: float
    worst: float
    best: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.1f} ({self.worst:.1f})"


def cells() -> dict[tuple[str, str, str], Cell]:
    """By case, method and start."""
    rows = json.loads((record.RESULTS / "loss_hparams.json").read_text())["rows"]
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["case"], row["method"], row["start"]), []).append(row["accuracy"])
    return {key: Cell(fmean(its), min(its), max(its), len(its)) for key, its in found.items()}


def of(case: str, method: str) -> dict[str, Cell]:
    """By start, in the order of the case."""
    known = cells()
    order = [*CASES[case].grid, *CASES[case].starts]
    return {s: known[case, method, s] for s in order if (case, method, s) in known}


def best(its: dict[str, Cell]) -> tuple[str, Cell]:
    """The best constant, by its mean."""
    return max(its.items(), key=lambda item: item[1].mean)


def told() -> list[str]:
    """The cases that have been run with all methods."""
    return [case for case in TITLES if of(case, "tuned") and of(case, "merged")]


def table() -> str:
    """Mean (worst seed): neutral, the best constant, tuned from each start, and the clean data."""
    lines = []
    for case in told():
        constants, tuned = of(case, "constant"), of(case, "tuned")
        value, cell = best(constants)
        lines.append(
            [
                TITLES[case][0],
                str(next(iter(constants.values()))),
                f"{cell} at {value}, of {len(constants)}",
                "; ".join(f"{its} from {start}" for start, its in tuned.items()),
                str(*of(case, "merged").values()),
            ]
        )
    head = ["", "neutral", "best constant", "tuned", "neutral, validation images trained on"]
    return grid(head, lines)


def rewritten(text: str) -> str:
    """The page's text with its table drawn anew."""
    return MARKED.sub(lambda match: match[1] + table() + match[3], text)


def _panel(axis: Any, case: str) -> None:
    constants, tuned = of(case, "constant"), of(case, "tuned")
    names = [*constants, *(f"from\n{start}" for start in tuned)]
    drawn = ((constants, "o", "#0072B2", "constant"), (tuned, "s", "#D55E00", "tuned, by start"))
    at = 0
    for its, marker, colour, label in drawn:
        places = [at + i for i in range(len(its))]
        means = [cell.mean for cell in its.values()]
        spread = [
            [cell.mean - cell.worst for cell in its.values()],
            [cell.best - cell.mean for cell in its.values()],
        ]
        axis.errorbar(places, means, spread, fmt=marker, ms=6, capsize=3, color=colour, label=label)
        at += len(its)
    neutral = next(iter(constants.values())).mean
    axis.plot([0], [neutral], "o", ms=11, mfc="none", color="black", label="neutral")
    top = best(constants)[1].mean
    axis.axhline(top, ls="--", lw=1, color="#0072B2", label="best constant")
    axis.axvline(len(constants) - 0.5, lw=0.8, color="0.7")
    shown = [cell.mean for cell in (*constants.values(), *tuned.values()) if cell.mean > top - 25]
    axis.set_ylim(min(shown) - 3, max(shown) + 2)  # what collapsed is off the panel
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set(title=TITLES[case][0], xlabel=TITLES[case][1], ylabel="test accuracy, %")
    axis.grid(alpha=0.3, axis="y")
    axis.spines[["top", "right"]].set_visible(False)


def plot() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = told()
    rows = -(-(len(shown) + 1) // 3)  # the legend takes the last place
    figure, places = plt.subplots(rows, 3, figsize=(13, 3.6 * rows), layout="constrained")
    axes = list(places.flat)
    for axis, case in zip(axes, shown, strict=False):
        _panel(axis, case)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    axes[len(shown)].legend(handles, labels, loc="center left", frameon=False)
    figure.savefig(record.RESULTS / "loss_hparams.png", dpi=110)


if __name__ == "__main__":
    plot()
    PAGE.write_text(rewritten(PAGE.read_text()))
