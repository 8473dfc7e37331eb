"""Does it pay to tune what stands inside the training loss?  Beside a grid of constants.

    python -m benchmarks.studies.loss_hparams                    # resumable: what is done is kept
    python -m benchmarks.studies.loss_hparams --cases smoothing --seeds 0

The cases are those of :mod:`.loss_cases`. A network trains at one lr, held, with hyperparameters

    constant    at each value of a grid, the neutral one first
    merged      neutral, with the validation images among the training images
    tuned       on the validation images, in windows, from several starts

Reported: accuracy on clean test images at the end, which no one looked at, the losses, the values
along the run, and seconds, which on a shared machine only say what is dear. All starts and seeds of
a method train side by side in one vmapped step.

The rule is that of the recipe, but its root mean square forgets within some 20 steps, not 100: a
start that is far off (bootstrapping at trust 0.1) has wild hypergradients, and a rule that
remembers them for the whole of a short run stands still.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import nn

import adatune_func as atf
from adatune_func import data
from adatune_func.networks import MLP
from adatune_func.search.population import stack, unstack
from adatune_func.trees import tree_leaves, tree_map
from benchmarks.run import record
from benchmarks.studies import tasks
from benchmarks.studies.loss_cases import CASES, Case

KEYS = ("case", "lr", "method", "start", "seed")
BATCH = 128
VALIDATION = 1000  # images: few, since who has many clean ones trains on them
POINTS = 40  # of a path


class Run(NamedTuple):
    start: str
    seed: int


def network() -> nn.Module:
    return MLP((64,))


def tuner_of(case: Case, lr: float, **options: Any) -> atf.Tuner:
    judge, _, _ = atf.functionalize(network(), case.judge)
    rule = atf.relative(case.step, halving=200.0, decays=(0.9, 0.95))
    given: dict[str, Any] = {"bound": atf.begin_again(), "hyper_update": rule}
    optimizer = atf.sgd(lr=lr, momentum=0.9)
    return atf.marthe(case.loss(network()), optimizer, val_loss_fn=judge, **given | options)


def clean_few(clean: data.ImageData) -> data.ImageData:
    return clean._replace(validation=data.Split(*(part[:VALIDATION] for part in clean.validation)))


def images_of(clean: data.ImageData, case: Case, method: str, seed: int) -> data.ImageData:
    images = case.images(clean_few(clean), seed)
    if method != "merged":
        return images
    both = (torch.cat(parts) for parts in zip(images.train, images.validation, strict=True))
    return images._replace(train=data.Split(*both))


def begun(tuner: atf.Tuner, case: Case, method: str, run: Run) -> atf.TunerState:
    torch.manual_seed(run.seed)
    params = dict(network().named_parameters())
    if method == "tuned":
        return tuner.init(params, case.starts[run.start])
    # A neutral value may lie on a border, where nothing could be tuned and init says so.
    state = tuner.init(params, next(iter(case.starts.values())))
    held = tree_map(torch.full_like, state.hparams, case.grid[run.start])
    return state._replace(hparams=held)


def trained(
    tuner: atf.Tuner, case: Case, method: str, runs: Sequence[Run], args: argparse.Namespace
) -> tuple[atf.TunerState, list[Any], float]:
    """Runs side by side: the last state, the values on the way, seconds of a run."""
    seeds = list(dict.fromkeys(run.seed for run in runs))
    images = {seed: images_of(args.loaded, case, method, seed) for seed in seeds}
    state = stack([begun(tuner, case, method, run) for run in runs])
    tune, train = (args.wrap(torch.vmap(step)) for step in (tuner.step, tuner.train))
    due = atf.windows(*args.windows) if method == "tuned" else (lambda t: False)
    feeds = (tasks.pairs_of(images[seed], BATCH, seed) for seed in seeds)
    epochs = args.epochs or case.epochs
    total = epochs * (len(images[seeds[0]].train.labels) // BATCH)
    path, began = [], time.process_time()
    for t, drawn in zip(range(total), zip(*feeds, strict=True), strict=False):
        if t % max(total // POINTS, 1) == 0:
            path.append(state.hparams)
        pairs = [drawn[seeds.index(run.seed)] for run in runs]
        batch, val_batch = tree_map(lambda *its: torch.stack(its), *pairs)
        state, _ = tune(state, batch, val_batch) if due(t) else train(state, batch)
    return state, [*path, state.hparams], (time.process_time() - began) / len(runs)


def measured(
    case: Case, name: str, method: str, runs: Sequence[Run], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row of each run."""
    tuner = tuner_of(case, args.lr)
    stacked, path, seconds = trained(tuner, case, method, runs, args)
    validation = args.loaded._replace(test=clean_few(args.loaded).validation)
    rows = []
    for i, (run, state) in enumerate(zip(runs, unstack(stacked), strict=True)):
        model = network()
        atf.write_back(model, state)
        seen = tasks.evaluate(model, validation)
        way = path if method == "tuned" else path[:1]
        values = [[float(f"{float(leaf[i]):.3g}") for leaf in tree_leaves(at)] for at in way]
        rows.append(
            dict(zip(KEYS, (name, args.lr, method, *run), strict=True))
            | tasks.evaluate(model, args.loaded)
            | {f"validation_{key}": value for key, value in seen.items()}
            | {"seconds": seconds, "values": values}
        )
    return rows


def jobs_of(case: Case, args: argparse.Namespace) -> dict[str, list[str]]:
    """The starts of each method."""
    grid = list(case.grid)
    starts = args.starts or list(case.starts)
    return {"constant": args.grid or grid, "merged": grid[:1], "tuned": starts}


def kept(output: Path) -> list[dict[str, Any]]:
    return json.loads(output.read_text())["rows"] if output.exists() else []


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of each case, method and start, and the worst seed; in the grid's order."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["method"], row["start"]), []).append(row)
    return [
        {
            **dict(zip(("case", "method", "start"), key, strict=True)),
            "seeds": len(its),
            "accuracy": fmean(row["accuracy"] for row in its),
            "worst": min(row["accuracy"] for row in its),
            "loss": fmean(row["loss"] for row in its),
            "seconds": fmean(row["seconds"] for row in its),
        }
        for key, its in groups.items()
    ]


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, help="of each run, in place of the case's own")
    parser.add_argument("--windows", nargs=3, type=int, default=[200, 50, 250])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--grid", nargs="+", help="names of constant values, in place of all")
    parser.add_argument("--starts", nargs="+", help="names of tuned starts, in place of all")
    parser.add_argument("--backend", default="eager", help="what jit compiles by; or inductor")
    parser.add_argument("--data", default="data", help="folder of the data sets")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "loss_hparams.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parsed(argv)
    asked = dict(vars(args))
    torch.set_num_threads(1)
    args.loaded = data.load("mnist", args.data)
    wrap: Callable[[Any], Any] = lambda step: atf.jit(step, backend=args.backend)  # noqa: E731
    args.wrap = wrap
    for name in args.cases:
        for method, starts in jobs_of(CASES[name], args).items():
            done = {tuple(row[key] for key in KEYS) for row in kept(args.output)}
            runs = [Run(start, seed) for seed in args.seeds for start in starts]
            runs = [run for run in runs if (name, args.lr, method, *run) not in done]
            if runs:
                rows = measured(CASES[name], name, method, runs, args)
                record.merge(args.output, rows, KEYS, record.provenance(asked))
                print(record.table(rows, [*KEYS, "accuracy", "loss"]), flush=True)
    shown = [row for row in kept(args.output) if row["case"] in args.cases]
    rows = summary(shown)
    print(record.table(rows, list(rows[0])), flush=True)


if __name__ == "__main__":
    main()
