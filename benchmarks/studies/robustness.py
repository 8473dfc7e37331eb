"""Final accuracy against the learning rate a run starts from, method by method.

    python -m benchmarks.studies.robustness --task digits --methods marthe cosine --starts 1e-6 1

With ``--together`` the starts of a seed train side by side, as one vmapped step on shared batches:
several times as fast for an MLP (slower for convolutions), where ``seconds`` is the group's time
divided by its size. Each run is appended to results/robustness_<task>.json as it ends, and one that
is there is not run again, so the grid may be run in parts. ``--plot`` draws
results/robustness_<task>.png from the file and prints the table. What a start means: lr for the
methods that have one; the first guess d0 for Prodigy and D-Adaptation, whose lr stays 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from adatune_func import data
from benchmarks.run import record
from benchmarks.studies import rivals
from benchmarks.studies.contenders import BASELINES, METHODS, trainer
from benchmarks.studies.tasks import OPTIMIZERS, TASKS, evaluate, pairs_of

STARTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
KEYS = ("method", "optimizer", "start", "seed")
SHOWN = (*KEYS, "accuracy", "last_lr", "refused", "seconds")

#: The figure compares methods; what else marthe may tune or save is for tables.
PLOTTED = (
    "marthe",
    *BASELINES,
    "hd",
    "rtho",
    "marthe_additive",
    "marthe_averaged",
    *rivals.PACKAGES,
)


def run_grid(args: argparse.Namespace) -> None:
    task = TASKS[args.task]
    images = data.load(task.images, args.data)
    epochs = args.epochs or task.epochs
    steps = epochs * (len(images.train.labels) // task.batch_size)
    said = {name: value for name, value in vars(args).items() if name not in ("data", "folder")}
    origin = record.provenance({**said, "epochs": epochs, "steps": steps})
    for optimizer, method in itertools.product(args.optimizers, args.methods):
        there = done(path_of(args), steps)
        wanted = itertools.product(args.seeds, args.starts)
        missing = [(seed, lr) for seed, lr in wanted if (method, optimizer, lr, seed) not in there]
        if not missing or not rivals.available(method, optimizer):
            continue
        together = args.together and method not in rivals.PACKAGES
        train = trainer(method, optimizer, task, steps, together)
        for seed, starts in grouped(missing, together):
            models = []
            for _ in starts:
                torch.manual_seed(seed)
                models.append(task.network())
            pairs = pairs_of(images, task.batch_size, seed)
            began = time.perf_counter()
            outcomes = train(models, starts, pairs)
            seconds = round((time.perf_counter() - began) / len(starts), 1)
            rows = []
            for start, outcome in zip(starts, outcomes, strict=True):
                row = dict(zip(KEYS, (method, optimizer, start, seed), strict=True))
                row |= evaluate(outcome.model, images) | {"seconds": seconds}
                row |= {"last_lr": outcome.last_lr, "refused": outcome.refused, "steps": steps}
                rows.append(row | {"lrs": [float(f"{lr:.3g}") for lr in outcome.path]})
                print(*(f"{key}={row[key]}" for key in SHOWN), flush=True)
            record.merge(path_of(args), rows, KEYS, origin)


def path_of(args: argparse.Namespace) -> Path:
    return args.folder / f"robustness_{args.task}.json"


def grouped(missing: Sequence[tuple[int, float]], together: bool) -> list[tuple[int, list[float]]]:
    """(seed, starts that train at once): all of a seed, or one by one."""
    if not together:
        return [(seed, [start]) for seed, start in missing]
    seeds = dict.fromkeys(seed for seed, _ in missing)
    return [(seed, [start for its, start in missing if its == seed]) for seed in seeds]


def done(path: Any, steps: int) -> set[tuple[Any, ...]]:
    """The runs of that length that are there; a shorter trial does not count."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return {tuple(row[key] for key in KEYS) for row in rows if row["steps"] == steps}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each method, optimizer and start: mean, worst, loss, over the seeds there are."""
    lines = []
    cells = sorted({tuple(row[key] for key in KEYS[:3]) for row in rows})
    for cell in cells:
        there = [row for row in rows if tuple(row[key] for key in KEYS[:3]) == cell]
        accuracies, losses = ([row[key] for row in there] for key in ("accuracy", "loss"))
        loss = None if None in losses else sum(losses) / len(losses)  # one of them diverged
        lines.append(
            dict(zip(KEYS[:3], cell, strict=True))
            | {"mean": sum(accuracies) / len(accuracies), "worst": min(accuracies)}
            | {"loss": loss, "seeds": len(there)}
            | {"seconds": sum(row["seconds"] for row in there) / len(there)}
        )
    return lines


def plot(args: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    path = path_of(args)
    lines = summary(json.loads(path.read_text())["rows"])
    print(record.table(lines, list(lines[0])))
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.2), sharey=True, layout="constrained")
    labelled = {}
    for axis, optimizer in zip(axes, OPTIMIZERS, strict=True):
        for number, method in enumerate(PLOTTED):
            its = [x for x in lines if (x["method"], x["optimizer"]) == (method, optimizer)]
            if not its:
                continue
            style: dict[str, Any] = {"lw": 3, "zorder": 5, "color": "black"}
            if number:  # all but the first, which is ours
                style = {"lw": 1.2, "color": f"C{number - 1}"}
            style["ls"] = "--" if method in rivals.PACKAGES else "-"
            x, y = ([line[key] for line in its] for key in ("start", "mean"))
            (labelled[method],) = axis.plot(x, y, marker="o", ms=3.5, **style)
        axis.set(xscale="log", xlabel="start", title=f"{args.task}, {optimizer}")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("test accuracy, %, mean over seeds")
    names = [method.replace("_", " ") for method in labelled]
    figure.legend(labelled.values(), names, loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(path.with_suffix(".png"), dpi=130)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=tuple(OPTIMIZERS))
    parser.add_argument("--starts", nargs="+", type=float, default=STARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--epochs", type=int, help="default: 15 (digits), 3, 5")
    parser.add_argument("--data", default="data", help="folder of the data sets")
    parser.add_argument("--folder", type=Path, default=record.RESULTS, help="of the results")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--together", action="store_true", help="the starts as one vmapped step")
    parser.add_argument("--plot", action="store_true", help="no runs: draw what there is")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.plot:
        plot(args)
    else:
        run_grid(args)


if __name__ == "__main__":
    main()
