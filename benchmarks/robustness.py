"""Final accuracy against the learning rate a run starts from, method by method.

    python -m benchmarks.robustness --task digits --methods marthe cosine --starts 1e-6 1e-2 1

With ``--together`` the starts of a seed train side by side, as one vmapped step on shared batches:
several times as fast for an MLP (slower for convolutions), where ``seconds`` is the group's time
divided by its size. Each run is appended to results/robustness_<task>.json as it ends, and one that
is there is not run again, so the grid may be run in parts. ``--plot`` draws
results/robustness_<task>.png from the file and prints the table. What a start means: lr for the
methods that have one; the first guess d0 for Prodigy and D-Adaptation, whose lr stays 1.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func import data, schedules
from adatune_func.trees import tree_map
from benchmarks import record, rivals
from benchmarks.tasks import OPTIMIZERS, TASKS, Outcome, Task, evaluate, pairs_of

STARTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
KEYS = ("method", "optimizer", "start", "seed")
SHOWN = (*KEYS, "accuracy", "last_lr", "refused", "seconds")


#: Schedules of plain training, by start and number of steps.
BASELINES: dict[str, Callable[[float, int], schedules.Schedule]] = {
    "constant": lambda lr, steps: schedules.constant(lr),
    "cosine": lambda lr, steps: schedules.cosine(lr, steps),
    "staircase": lambda lr, steps: schedules.staircase(lr, every=-(-steps // 3), decay=0.1),
}

#: Hyper-learning-rates of the additive rule by optimizer: of the order that Baydin et al. 2018 use
#: for hd; those of the others are set by hand and were not searched.
HYPER_LR = {
    "hd": {"sgd": 1e-3, "adamw": 1e-7},
    "rtho": {"sgd": 1e-4, "adamw": 1e-8},
    "marthe_additive": {"sgd": 1e-4, "adamw": 1e-8},
}


def averaged(loss_fn: Any, optimizer: atf.Optimizer) -> atf.Tuner:
    return atf.marthe(loss_fn, atf.averaged(optimizer))


TUNERS: dict[str, Callable[..., atf.Tuner]] = {
    "hd": atf.hd,
    "rtho": atf.rtho,
    "marthe_additive": atf.marthe,
    "marthe": atf.marthe,
    "marthe_averaged": averaged,
    "marthe_all": atf.marthe,
    "marthe_balanced": functools.partial(atf.marthe, **atf.presets["balanced"]),
    "marthe_fast": functools.partial(atf.marthe, **atf.presets["fast"]),
}

#: What marthe_all tunes beside lr, from these starts.
MORE = {
    "sgd": {"momentum": 0.9, "weight_decay": 1e-4},
    "adamw": {"beta1": 0.9, "beta2": 0.999, "weight_decay": 1e-2},
}

METHODS = (*BASELINES, *TUNERS, *rivals.PACKAGES)

#: The figure compares methods; what else marthe may tune or save is for tables.
PLOTTED = (
    *BASELINES,
    "hd",
    "rtho",
    "marthe_additive",
    "marthe",
    "marthe_averaged",
    *rivals.PACKAGES,
)


def tuner_for(method: str, optimizer: str, loss_fn: Any) -> atf.Tuner:
    if method in BASELINES:
        return atf.plain(loss_fn, OPTIMIZERS[optimizer])
    rule = HYPER_LR.get(method)
    options = {} if rule is None else {"hyper_update": atf.additive(rule[optimizer])}
    return TUNERS[method](loss_fn, OPTIMIZERS[optimizer], **options)


def train_ours(
    method: str,
    optimizer: str,
    tuner: atf.Tuner,
    step: Any,
    models: list[nn.Module],
    starts: list[float],
    steps: int,
    pairs: Any,
) -> list[Outcome]:
    """Runs side by side. ``step`` is compiled: lr lives in the state, so one graph serves all."""
    states, more = [], MORE[optimizer] if method == "marthe_all" else {}
    for model, start in zip(models, starts, strict=True):
        _, params, buffers = atf.functionalize(model, F.cross_entropy)
        states.append(tuner.init(params, {"lr": start, **more}, buffers))
    state = tree_map(lambda *leaves: torch.stack(leaves), *states)
    plans = [BASELINES[method](start, steps) for start in starts] if method in BASELINES else []
    refused, lrs = torch.zeros(len(starts), dtype=torch.long), []
    for t, (batch, val_batch) in zip(range(steps), pairs, strict=False):
        if plans:
            lr = torch.tensor([float(schedule(t)) for schedule in plans])
            state = state._replace(hparams={"lr": lr})
        if t % max(steps // 10, 1) == 0:
            lrs.append(state.hparams["lr"])
        state, info = step(state, batch, val_batch)
        refused = refused + ~info.accepted
    paths = torch.stack([*lrs, state.hparams["lr"]], 1).tolist()
    outcomes = []
    for i, (model, path) in enumerate(zip(models, paths, strict=True)):
        its = tree_map(lambda leaf, i=i: leaf[i], state)
        atf.write_back(model, atf.averages(its) if method == "marthe_averaged" else its)
        outcomes.append(Outcome(model, path[-1], int(refused[i]), path[:-1]))
    return outcomes


def alone(step: Any) -> Any:
    """``step`` of one state for a stack of one: a convolution under vmap would be a grouped one."""

    def stacked(state: atf.TunerState, *batches: Any) -> Any:
        result = step(tree_map(lambda leaf: leaf[0], state), *batches)
        return tree_map(lambda leaf: leaf[None], result)

    return stacked


def run_grid(args: argparse.Namespace) -> None:
    task = TASKS[args.task]
    images = data.load(task.images, args.data)
    epochs = args.epochs or task.epochs
    steps = epochs * (len(images.train.labels) // task.batch_size)
    path = record.RESULTS / f"robustness_{args.task}.json"
    said = {name: value for name, value in vars(args).items() if name != "data"}
    origin = record.provenance({**said, "epochs": epochs, "steps": steps})
    for optimizer in args.optimizers:
        for method in args.methods:
            wanted = [(s, seed) for seed in args.seeds for s in args.starts]
            missing = [w for w in wanted if (method, optimizer, *w) not in done(path, steps)]
            if not missing or not rivals.available(method, optimizer):
                continue
            run_method(args, task, images, steps, method, optimizer, missing, path, origin)


def run_method(
    args: argparse.Namespace,
    task: Task,
    images: data.ImageData,
    steps: int,
    method: str,
    optimizer: str,
    missing: list[tuple[float, int]],
    path: Any,
    origin: Any,
) -> None:
    tuner = step = None
    if method not in rivals.PACKAGES:
        loss_fn = atf.functionalize(task.network(), F.cross_entropy).loss_fn
        tuner = tuner_for(method, optimizer, loss_fn)
        plain = torch.func.vmap(tuner.step, in_dims=(0, None, None)) if args.together else None
        step = torch.compile(plain or tuner.step, fullgraph=True)
        step = step if args.together else alone(step)
    for seed in sorted({seed for _, seed in missing}):
        starts = [start for start, its in missing if its == seed]
        groups = [starts] if args.together and tuner is not None else [[start] for start in starts]
        for group in groups:
            models = []
            for _ in group:
                torch.manual_seed(seed)
                models.append(task.network())
            pairs = pairs_of(images, task.batch_size, seed)
            began = time.perf_counter()
            if tuner is None:
                outcomes = [rivals.train(method, optimizer, models[0], group[0], steps, pairs)]
            else:
                outcomes = train_ours(method, optimizer, tuner, step, models, group, steps, pairs)
            seconds = round((time.perf_counter() - began) / len(group), 1)
            rows = []
            for start, outcome in zip(group, outcomes, strict=True):
                row = dict(zip(KEYS, (method, optimizer, start, seed), strict=True))
                row |= evaluate(outcome.model, images) | {"seconds": seconds}
                row |= {"last_lr": outcome.last_lr, "refused": outcome.refused, "steps": steps}
                rows.append(row | {"lrs": [float(f"{lr:.3g}") for lr in outcome.path]})
                print(*(f"{key}={row[key]}" for key in SHOWN), flush=True)
            record.merge(path, rows, KEYS, origin)


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
        accuracies = [row["accuracy"] for row in there]
        lines.append(
            dict(zip(KEYS[:3], cell, strict=True))
            | {"mean": sum(accuracies) / len(accuracies), "worst": min(accuracies)}
            | {"loss": sum(row["loss"] for row in there) / len(there), "seeds": len(there)}
            | {"seconds": sum(row["seconds"] for row in there) / len(there)}
        )
    return lines


def plot(task: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    path = record.RESULTS / f"robustness_{task}.json"
    lines = summary(json.loads(path.read_text())["rows"])
    print(record.table(lines, list(lines[0])))
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.2), sharey=True, layout="constrained")
    labelled = {}
    for axis, optimizer in zip(axes, OPTIMIZERS, strict=True):
        for number, method in enumerate(PLOTTED):
            its = [x for x in lines if (x["method"], x["optimizer"]) == (method, optimizer)]
            if not its:
                continue
            style: dict[str, Any] = {"lw": 1.2, "color": f"C{number}"}
            style["ls"] = "--" if method in rivals.PACKAGES else "-"
            if method == "marthe":
                style |= {"lw": 3, "zorder": 5, "color": "black"}
            x, y = ([line[key] for line in its] for key in ("start", "mean"))
            (labelled[method],) = axis.plot(x, y, marker="o", ms=3.5, **style)
        axis.set(xscale="log", xlabel="start", title=f"{task}, {optimizer}")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("test accuracy, %, mean over seeds")
    names = [method.replace("_", " ") for method in labelled]
    figure.legend(labelled.values(), names, loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(path.with_suffix(".png"), dpi=130)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=tuple(OPTIMIZERS))
    parser.add_argument("--starts", nargs="+", type=float, default=STARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--epochs", type=int, help="default: 15 (digits), 3, 5")
    parser.add_argument("--data", default="data", help="folder of the data sets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--together", action="store_true", help="the starts as one vmapped step")
    parser.add_argument("--plot", action="store_true", help="no runs: draw what there is")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.plot:
        plot(arguments.task)
    else:
        run_grid(arguments)
