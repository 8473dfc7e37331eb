"""One picture of a run, from its log: loss, accuracy, hyperparameters, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a file, no window
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.run.outputs import read_log

COLOURS = ("tab:blue", "tab:green")


def draw(folder: Path) -> None:
    """Write ``curves.png`` beside the log in ``folder``."""
    lines = read_log(folder)
    steps = [line for line in lines if "step" in line]
    epochs = [line for line in lines if "epoch" in line]
    count = 4 if tuned(steps) else 3
    size = (4.3 * count, 3.6)
    figure, (loss, accuracy, hparams, *more) = plt.subplots(
        1, count, figsize=size, layout="constrained"
    )
    x = np.array([line["step"] for line in steps])
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        y = np.array([line[name] for line in steps])
        (dots,) = loss.plot(x, y, lw=0.5, alpha=0.3)
        loss.plot(x, _smooth(y), color=dots.get_color(), label=label)
    at = [line["steps"] for line in epochs]
    loss.plot(
        at, [line["val_loss"] for line in epochs], "k.", ms=4, label="validation, after an epoch"
    )
    loss.set(title="loss", xlabel="step", yscale="log")
    loss.legend(frameon=False)
    accuracy.plot(at, [100 * line["val_accuracy"] for line in epochs], marker=".")
    accuracy.set(title="validation accuracy, %", xlabel="step")
    for name in tuned(steps):
        hparams.plot(x, [line[name] for line in steps], label=name)
    if steps and "lr_in_use" in steps[0]:
        hparams.plot(x, [line["lr_in_use"] for line in steps], "k:", lw=1, label="lr in use")
    hparams.set(title="hyperparameters", xlabel="step", yscale="log")
    hparams.legend(frameon=False)
    for axes in more:
        for name in tuned(steps):
            axes.plot(x, [max(line[f"snr_{name}"], 1e-3) for line in steps], label=name, lw=0.8)
        axes.axhline(0.07, color="0.6", ls="--", label="noise alone")
        axes.set(title="signal to noise of hypergradients", xlabel="step", yscale="log")
        axes.set_ylim(0.03, 30)  # the first step has no noise yet
        axes.legend(frameon=False)
    for axes in (loss, accuracy, hparams, *more):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "curves.png", dpi=130)
    plt.close(figure)


def draw_search(folder: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write ``search.png``: the runs of a search for hyper-lr, and for alpha if it had one."""
    rounds = [0, 1], [2]
    panels = [panel for panel in rounds if any(row["round"] in panel for row in rows)]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.5 * len(panels), 3.6), layout="constrained", squeeze=False
    )
    for axis, panel, number in zip(axes[0], panels, ("hyper_lr.lr", "alpha"), strict=False):
        search_panel(axis, [row for row in rows if row["round"] in panel], number)
        axis.set(xlabel=number.split(".")[0].replace("_", "-"), ylabel="validation loss at the end")
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(folder / "search.png", dpi=130)
    plt.close(figure)


def search_panel(axis: Any, rows: Sequence[dict[str, float]], number: str) -> None:
    """The validation loss at which runs ended against ``number``; a cross is not stable."""
    for round_, colour in zip(sorted({row["round"] for row in rows}), COLOURS, strict=False):
        for stable, marker in ((1, "o"), (0, "x")):
            some = [
                row
                for row in rows
                if (row["round"], row["stable"]) == (round_, stable) and row[number] > 0
            ]
            label = f"round {int(round_) + 1}, {'stable' if stable else 'not stable'}"
            x, y = ([row[name] for row in some] for name in (number, "val_loss"))
            axis.plot(x, y, marker, color=colour, label=label)
    still = max(row["val_loss"] for row in rows if row["ratio"] == 0)
    axis.set(xscale="log", ylim=(0, 1.3 * still))
    axis.axhline(still, color="0.6", lw=0.8, label=f"{number.split('.')[0].replace('_', '-')} 0")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def tuned(steps: list[dict[str, Any]]) -> list[str]:
    """The names of the hyperparameters in step lines: those that have a hypergradient."""
    return [name for name in steps[0] if f"hypergrad_{name}" in steps[0]] if steps else []


def _smooth(y: np.ndarray, decay: float = 0.95) -> np.ndarray:
    """Exponential moving average without the bias of its start."""
    mean, weight, out = 0.0, 0.0, np.empty(len(y))
    for i, value in enumerate(y):
        if np.isfinite(value):
            mean, weight = decay * mean + (1 - decay) * value, decay * weight + 1 - decay
        out[i] = mean / weight if weight else np.nan
    return out
