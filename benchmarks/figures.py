"""Accuracy, loss and learning rate of several runs side by side, with the spread over seeds.

    python benchmarks/figures.py runs/marthe-* runs/staircase-* --out figure.png

Runs whose options are the same but for the seed are one line, their mean, in a band of their
standard deviation. Names come from the options in which the runs differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # a file, no window
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backend_bases import FigureCanvasBase

from benchmarks.run import outputs

#: Options of no account here: seeds are averaged over, and the others tell what defaults were.
_NOT_NAMED = ("seed", "adatune_defaults")

#: Panel title, scale, and the value of an epoch line of the log.
PANELS: list[tuple[str, str, Callable[[dict[str, Any]], float]]] = [
    ("validation accuracy, %", "linear", lambda line: 100 * line["val_accuracy"]),
    ("training loss", "log", lambda line: line["train_loss"]),
    ("validation loss", "log", lambda line: line["val_loss"]),
    ("learning rate", "log", lambda line: line["lr"]),
]


class Group(NamedTuple):
    """Runs that differ in nothing but the seed: their options and each one's epoch lines."""

    options: dict[str, Any]
    runs: list[list[dict[str, Any]]]


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Options and epoch lines of a run; ValueError where there are none."""
    config = outputs.read_config(folder)
    lines = [line for line in outputs.read_log(folder) if "epoch" in line]
    if not lines:
        raise ValueError(f"{folder} has no finished epoch to draw")
    options = outputs.what(config)
    return {name: value for name, value in options.items() if name not in _NOT_NAMED}, lines


def grouped(runs: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]]) -> list[Group]:
    """Runs of the same options together, in the order in which they are given."""
    groups: list[Group] = []
    for options, lines in runs:
        same = next((group for group in groups if group.options == options), None)
        if same is None:
            groups.append(Group(options, [lines]))
        else:
            same.runs.append(lines)
    return groups


def names(groups: Sequence[Group]) -> list[str]:
    """What tells each group from the others, shortly: "rtho, mu 1" and "cyclic, t_0 10"."""
    told = [_differing(group.options, [other.options for other in groups]) for group in groups]
    return [f"{name} ({len(g.runs)} seeds)" if len(g.runs) > 1 else name
            for name, g in zip(told, groups, strict=True)]  # fmt: skip


def _differing(options: dict[str, Any], everyone: list[dict[str, Any]]) -> str:
    parts = [Path(str(options.get("script", "run"))).stem]
    if "lr_scheduler" in options:
        parts = [str(options["lr_scheduler"])]
    # Only runs of the same script and scheduler have to be told apart by their other options.
    alike = [o for o in everyone if _kind(o) == _kind(options)]
    for name, value in options.items():
        if name in ("script", "lr_scheduler") or all(o.get(name) == value for o in alike):
            continue
        shown = f"{value:g}" if isinstance(value, float) else value
        parts.append(f"{name.replace('_', '-')} {shown}")
    return ", ".join(parts)


def _kind(options: dict[str, Any]) -> tuple[Any, Any]:
    return options.get("script"), options.get("lr_scheduler")


def mean_and_spread(
    runs: Sequence[Sequence[dict[str, Any]]], value: Callable[[dict[str, Any]], float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Epochs, mean and standard deviation over runs, as far as the shortest of them went."""
    length = min(map(len, runs))
    table = np.array([[value(line) for line in run[:length]] for run in runs])
    epochs = np.array([line["epoch"] for line in runs[0][:length]])
    return epochs, table.mean(0), table.std(0, ddof=1) if len(runs) > 1 else np.zeros(length)


def draw(groups: Sequence[Group], path: Path) -> None:
    """A panel a quantity, a line a group."""
    figure, panels = plt.subplots(1, len(PANELS), figsize=(17, 4.4))
    for axes, (title, scale, value) in zip(panels, PANELS, strict=True):
        for group, name in zip(groups, names(groups), strict=True):
            epochs, mean, spread = mean_and_spread(group.runs, value)
            (line,) = axes.plot(epochs, mean, label=name, marker="." if len(epochs) < 30 else "")
            # On a logarithmic axis the band must not reach 0.
            low = mean - spread if scale == "linear" else np.maximum(mean - spread, mean / 10)
            axes.fill_between(epochs, low, mean + spread, color=line.get_color(), alpha=0.2, lw=0)
        axes.set(title=title, xlabel="epoch", yscale=scale)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.tight_layout()
    rows = -(-len(labels) // 4)
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False,
                  bbox_to_anchor=(0.5, -0.07 * rows))  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("figures.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, default=Path("figure.png"), help="(figure.png)")
    parser.print_usage = lambda file=None: None  # errors in one line, as those of the scripts
    args = parser.parse_args(argv)
    try:
        if args.out.suffix[1:] not in FigureCanvasBase.filetypes:
            raise ValueError(f"--out {args.out}: no such kind of picture; take .png, .pdf or .svg")
        draw(grouped([read(folder) for folder in args.runs]), args.out)
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
