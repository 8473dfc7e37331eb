"""Is the hyper-learning-rate that the search finds as good as the best of a grid by hand?

    python benchmarks/studies/find_hyper_lr.py
    python benchmarks/studies/find_hyper_lr.py --draw      the figure again, from the JSON

Tasks on scikit-learn's digits; MARTHE with the additive rule from a learning rate that is too low.
The search sees runs from the same start on other batches. The grid by hand is a decade wide at each
step and every run of it is as long as the final one; its best by test accuracy is the most a human
could have found.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adatune_func as atf
from adatune_func import data, search
from adatune_func.networks import MLP
from benchmarks.run import record
from benchmarks.run.curves import search_panel

RESULT = record.RESULTS / "find_hyper_lr.json"


def small_convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(6, 12, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(300, 10),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP((32,)),
    "conv": small_convolutional,
}

#: name -> (optimizer, start of lr, hyper-lrs by hand)
OPTIMIZERS: dict[str, tuple[atf.Optimizer, float, list[float]]] = {
    "sgd": (atf.sgd(momentum=0.9), 1e-3, [10.0**e for e in range(-8, -1)]),
    "adam": (atf.adam(eps=1e-4), 1e-4, [10.0**e for e in range(-12, -5)]),
}


def batches(digits: data.ImageData, size: int, seed: int) -> Iterator[tuple[Any, Any]]:
    train = data.train_batches(digits, size, seed=seed)
    return zip(train, data.validation_batches(digits, size, seed=seed + 1), strict=True)


def accuracies(module: nn.Module, state: atf.TunerState, digits: data.ImageData) -> list[float]:
    """Test accuracy of each member, per cent."""
    images = data.normalize(digits.test.images, digits.mean, digits.std)

    def accuracy(member: atf.TunerState) -> Tensor:
        values = {**member.params, **member.buffers}
        logits = torch.func.functional_call(module, values, (images,))
        return 100 * (logits.argmax(1) == digits.test.labels).double().mean()

    with torch.no_grad():
        return [float(accuracy(member)) for member in search.unstack(state)]


def compare(network: str, optimizer: str, args: argparse.Namespace) -> dict[str, Any]:
    """One task: search, then train with what was found beside the grid, all from the same start."""
    torch.manual_seed(args.seed)
    digits, module = data.load("digits"), NETWORKS[network]()
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    inner, lr, grid = OPTIMIZERS[optimizer]

    def start(hyper_lr: Any, alpha: float) -> tuple[atf.Tuner, atf.TunerState]:
        rule = atf.additive(hyper_lr, alpha)
        tuner = atf.marthe(loss_fn, inner, hyper_update=rule)
        return tuner, tuner.init(params, {"lr": lr}, buffers)

    tuner, state = start(0.0, 0.0)
    began = time.perf_counter()
    short = list(islice(batches(digits, args.batch_size, args.seed), args.search_steps))
    found = search.find_hyper_lr(tuner, state, short, members=args.members)
    seconds = time.perf_counter() - began

    settings = [(found.hyper_lr, found.alpha), (found.hyper_lr, 0.0), *((b, 0.0) for b in grid)]
    states = [start(*setting)[1] for setting in settings]
    long = islice(batches(digits, args.batch_size, args.seed + 2), args.steps)
    result = search.sweep(tuner, states, long)
    rows = [
        {"hyper_lr": beta["lr"] if isinstance(beta, dict) else beta, "alpha": alpha, "test": test}
        | row
        for (beta, alpha), test, row in zip(
            settings,
            accuracies(module, result.state, digits),
            search.table(result),
            strict=True,
        )
    ]
    return {
        "network": network,
        "optimizer": optimizer,
        "seed": args.seed,
        "hyper_lr": found.hyper_lr["lr"],
        "alpha": found.alpha,
        "search_seconds": seconds,
        "test_found": rows[0]["test"],
        "test_found_alpha_0": rows[1]["test"],
        "test_best_of_grid": max(row["test"] for row in rows[2:]),
        "grid": rows,
        "search": found.table,
    }


def draw() -> None:
    """A column a task, of the first seed: the runs of the search, and the accuracy of the grid."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = json.loads(RESULT.read_text())["rows"]
    tasks = [row for row in rows if row["seed"] == min(row["seed"] for row in rows)]
    figure, axes = plt.subplots(2, len(tasks), figsize=(3.6 * len(tasks), 5.6), squeeze=False)
    for (top, bottom), task in zip(axes.T, tasks, strict=True):
        search_panel(top, [r for r in task["search"] if r["round"] < 2], "hyper_lr.lr")
        top.set_title(f"{task['network']}, {task['optimizer']}")
        grid = task["grid"][2:]
        bottom.plot([r["hyper_lr"] for r in grid], [r["test"] for r in grid], "o-", color="0.4")
        bottom.plot([task["hyper_lr"]], [task["test_found"]], "*", color="tab:red", ms=12)
        bottom.set_ylim(0, 102)
        bottom.set_xlabel("hyper-lr")
        for axis in (top, bottom):
            axis.set_xscale("log")
            axis.locator_params(axis="x", numticks=6)
            axis.axvline(task["hyper_lr"], color="tab:red", lw=0.8)
            axis.grid(alpha=0.3)
        bottom.sharex(top)
    axes[0][0].set_ylabel("validation loss after the search's run")
    axes[1][0].set_ylabel("test accuracy of the full run, %")
    axes[0][-1].legend(fontsize=7, loc="upper right")
    figure.tight_layout()
    figure.savefig(RESULT.with_suffix(".png"), dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--search-steps", type=int, default=150)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--members", type=int, default=13)
    parser.add_argument("--draw", action="store_true", help="only draw the figure")
    args = parser.parse_args(argv)
    if not args.draw:
        for network in args.networks:
            for optimizer in args.optimizers:
                task = compare(network, optimizer, args)
                run = record.provenance(vars(args))
                record.merge(RESULT, [task], ("network", "optimizer", "seed"), run)
                shown = [name for name in task if name not in ("grid", "search")]
                print(record.table([task], shown), flush=True)
    draw()


if __name__ == "__main__":
    main()
