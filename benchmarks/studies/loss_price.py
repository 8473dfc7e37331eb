"""What a hyperparameter inside the loss costs: an exact step with one beside a step without.

    python -m benchmarks.studies.loss_price

Each pair of steps has the same network, batch and number of columns: one tunes numbers of the
optimizer only, the other one of the loss among them. Both run in turn, ``rounds`` times ``inner``
steps each; reported are medians and the median of the ratios of neighbours, goal at most 1.1. One
thread, and the seconds that it computes, so that a busy machine does not tell.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import adatune_func as atf
from adatune_func.networks import MLP, LeNet
from benchmarks.run import record

NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "mlp": lambda: MLP((256, 128)),
    "lenet": lambda: LeNet((6, 16)),
}


def smoothed(output: torch.Tensor, target: torch.Tensor, smoothing: Any = 0.0) -> torch.Tensor:
    logp = F.log_softmax(output, 1)
    return (1 - smoothing) * F.nll_loss(logp, target) - smoothing * logp.mean()


#: columns -> (tuned without, tuned with)
TUNED: dict[int, tuple[dict[str, float], dict[str, float]]] = {
    1: ({"lr": 0.02}, {"smoothing": 0.1}),
    2: ({"lr": 0.02, "momentum": 0.9}, {"lr": 0.02, "smoothing": 0.1}),
}


def stepper(network: str, tuned: dict[str, float], wrap: Callable[[Any], Any], size: int) -> Any:
    """A function that takes one exact step and returns nothing."""
    torch.manual_seed(0)
    of_loss = {"smoothing": 0.1} if "smoothing" in tuned else None
    loss_fn, params, buffers = atf.functionalize(NETWORKS[network](), smoothed, hparams=of_loss)
    tuner = atf.marthe(loss_fn, atf.sgd(lr=0.02, momentum=0.9), hyper_update=atf.additive(0.0))
    state, step = tuner.init(params, tuned, buffers), wrap(tuner.step)
    batch, val_batch = (
        (torch.randn(size, 1, 28, 28), torch.randint(10, (size,))) for _ in range(2)
    )

    def once() -> None:
        nonlocal state
        state, _ = step(state, batch, val_batch)

    return once


def clocked(fn: Callable[[], None], inner: int) -> float:
    began = time.process_time()
    for _ in range(inner):
        fn()
    return (time.process_time() - began) / inner


def compare(network: str, columns: int, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    wrap = atf.jit if mode == "jit" else lambda step: step
    pair = [stepper(network, tuned, wrap, args.size) for tuned in TUNED[columns]]
    for once in pair:
        clocked(once, 3)
    times = [[clocked(once, args.inner) for once in pair] for _ in range(args.rounds)]
    without, with_one = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "network": network,
        "columns": columns,
        "mode": mode,
        "size": args.size,
        "milliseconds_without": 1e3 * without,
        "milliseconds_with": 1e3 * with_one,
        "ratio": statistics.median(b / a for a, b in times),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--columns", nargs="+", type=int, choices=[1, 2], default=[1, 2])
    parser.add_argument("--modes", nargs="+", choices=["eager", "jit"], default=["eager", "jit"])
    parser.add_argument("--size", type=int, default=128, help="samples a batch")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--inner", type=int, default=5)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "loss_price.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for network in args.networks:
        for columns in args.columns:
            for mode in args.modes:
                row = compare(network, columns, mode, args)
                keys = ("network", "columns", "mode", "size")
                record.merge(args.output, [row], keys, record.provenance(vars(args)))
                print(record.table([row], list(row)), flush=True)


if __name__ == "__main__":
    main()
