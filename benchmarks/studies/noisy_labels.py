"""Wrong labels: a hyperparameter of the loss tuned on clean validation data, beside a grid.

    python -m benchmarks.studies.noisy_labels                    # resumable: what is done is kept
    python -m benchmarks.studies.noisy_labels --criterion smoothing --seeds 0

MNIST, of whose training labels 40 % are replaced by another class; a few thousand clean images
validate. An MLP large enough to learn the wrong labels by heart trains at one lr with

    bootstrap   trust · CE(label) + (1 - trust) · entropy of the output     neutral: trust 1
    smoothing   (1 - s) · CE(label) + s · CE(uniform)                       neutral: s 0

with the value constant (the grid, the neutral one among it), or tuned from several starts, in
windows; see Reed et al. 2015 (arXiv 1412.6596), whose soft bootstrapping the first one is. A run
that tunes costs one run, a grid as many as it has values. Reported: accuracy on clean test images
at the end, which no one looked at, the validation loss, the values along the run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import adatune_func as atf
from adatune_func import data
from adatune_func.networks import MLP
from benchmarks.run import record
from benchmarks.studies import tasks

KEYS = ("criterion", "wrong", "images", "epochs", "lr", "seed", "method", "start")
BATCH = 128


def bootstrap(output: Tensor, target: Tensor, trust: Any = 1.0) -> Tensor:
    """Soft bootstrapping: the target is ``trust · label + (1 - trust) · softmax(output)``."""
    logp = F.log_softmax(output, 1)
    entropy = -(logp.exp() * logp).sum(1).mean()
    return trust * F.nll_loss(logp, target) + (1 - trust) * entropy


def smoothing(output: Tensor, target: Tensor, share: Any = 0.0) -> Tensor:
    """Label smoothing; with a share w of wrong labels, evenly spread, 10 w / 9 undoes them."""
    logp = F.log_softmax(output, 1)
    return (1 - share) * F.nll_loss(logp, target) - share * logp.mean()


class Case(NamedTuple):
    criterion: Callable[..., Tensor]
    name: str
    grid: tuple[float, ...]  # the neutral value first
    starts: tuple[float, ...]


CASES = {
    "bootstrap": Case(bootstrap, "trust", (1.0, 0.9, 0.8, 0.7, 0.6, 0.5), (0.99, 0.8, 0.5)),
    "smoothing": Case(smoothing, "share", (0.0, 0.1, 0.3, 0.5, 0.7, 0.9), (0.01, 0.2, 0.8)),
}


def mislabeled(images: data.ImageData, share: float, count: int, seed: int) -> data.ImageData:
    """The first ``count`` training images, a share of them under one of the other classes."""
    generator = torch.Generator().manual_seed(seed)
    train = data.Split(*(part[:count] for part in images.train))
    wrong = torch.rand(count, generator=generator) < share
    other = torch.randint(1, images.num_classes, (count,), generator=generator)
    labels = torch.where(wrong, (train.labels + other) % images.num_classes, train.labels)
    return images._replace(train=train._replace(labels=labels))


class Steps(NamedTuple):
    """Compiled once for all runs."""

    loss_fn: Any
    tuner: atf.Tuner
    tune: Any
    train: Any


def steps_of(case: Case, lr: float, wrap: Callable[[Any], Any]) -> Steps:
    loss_fn, _, _ = atf.functionalize(
        MLP((256, 128)),
        case.criterion,
        hparams={case.name: case.grid[0]},
        domains={case.name: (0.0, 1.0)},
    )
    tuner = atf.marthe(loss_fn, atf.sgd(lr=lr, momentum=0.9), bound=atf.begin_again())
    return Steps(loss_fn, tuner, wrap(tuner.step), wrap(tuner.train))


def run(
    steps: Steps, case: Case, method: str, start: float, seed: int, args: Any
) -> dict[str, Any]:
    """One run; ``method`` is "tuned" or "constant"."""
    images = mislabeled(args.loaded, args.wrong, args.images, seed)
    torch.manual_seed(seed)
    model = MLP((256, 128))
    params = dict(model.named_parameters())
    state = steps.tuner.init(params, {case.name: min(max(start, 1e-6), 1 - 1e-6)})
    if method == "constant":  # the neutral value lies on the border, where nothing could be tuned
        held = torch.full_like(state.hparams[case.name], start)
        state = state._replace(hparams={case.name: held})
    total = args.epochs * (args.images // BATCH)
    due = atf.windows(*args.windows) if method == "tuned" else (lambda t: False)
    path, began = [], time.process_time()
    pairs = tasks.pairs_of(images, BATCH, seed)
    for t, (batch, val_batch) in zip(range(total), pairs, strict=False):
        if t % max(total // 10, 1) == 0:
            path.append(float(f"{float(state.hparams[case.name]):.3g}"))
        if due(t):
            state, _ = steps.tune(state, batch, val_batch)
        else:
            state, _ = steps.train(state, batch)
    seconds = time.process_time() - began
    atf.write_back(model, state)
    clean = args.loaded._replace(test=args.loaded.validation)
    path.append(float(f"{float(state.hparams[case.name]):.3g}"))
    return {
        **tasks.evaluate(model, args.loaded),
        **{f"validation_{n}": v for n, v in tasks.evaluate(model, clean).items()},
        "seconds": seconds,
        "values": path,
    }


def done(output: Path) -> set[tuple[Any, ...]]:
    rows = json.loads(output.read_text())["rows"] if output.exists() else []
    return {tuple(row[key] for key in KEYS) for row in rows}


def summary(output: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Means over seeds of each method and start, and the worst seed."""
    rows = json.loads(output.read_text())["rows"] if output.exists() else []
    rows = [row for row in rows if all(row[key] == getattr(args, key) for key in KEYS[:5])]
    made: list[dict[str, Any]] = []
    for method, start in sorted({(row["method"], row["start"]) for row in rows}):
        group = [row for row in rows if (row["method"], row["start"]) == (method, start)]
        accuracies = [row["accuracy"] for row in group]
        made.append(
            {
                "method": method,
                "start": start,
                "seeds": len(group),
                "accuracy": fmean(accuracies),
                "worst": min(accuracies),
                "end": fmean(row["values"][-1] for row in group),
                "seconds": fmean(row["seconds"] for row in group),
            }
        )
    return made


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--criterion", choices=list(CASES), default="bootstrap")
    parser.add_argument("--wrong", type=float, default=0.4, help="share of wrong training labels")
    parser.add_argument("--images", type=int, default=20000, help="training images")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--windows", nargs=3, type=int, default=[200, 50, 250])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--grid", nargs="+", type=float, help="constant values, in place of ours")
    parser.add_argument("--starts", nargs="+", type=float, help="of tuned runs, in place of ours")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--data", default="data", help="folder of the data sets")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "noisy_labels.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    case = CASES[args.criterion]
    steps = steps_of(case, args.lr, (lambda step: step) if args.eager else atf.jit)
    args.loaded = data.load("mnist", args.data)
    asked = {name: value for name, value in vars(args).items() if name != "loaded"}
    finished = done(args.output)
    jobs = [("tuned", start) for start in (args.starts or case.starts)]
    jobs += [("constant", value) for value in (args.grid or case.grid)]
    for seed in args.seeds:
        for method, start in jobs:
            what = (*(getattr(args, key) for key in KEYS[:5]), seed, method, start)
            if what in finished:
                continue
            row = dict(zip(KEYS, what, strict=True)) | run(steps, case, method, start, seed, args)
            record.merge(args.output, [row], KEYS, record.provenance(asked))
            print(
                record.table([row], ["seed", "method", "start", "accuracy", "values"]), flush=True
            )
    rows = summary(args.output, args)
    print(record.table(rows, list(rows[0])) if rows else "nothing was asked for", flush=True)


if __name__ == "__main__":
    main()
