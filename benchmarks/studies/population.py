"""Throughput of a population: one vmapped, compiled step against the runs one after the other.

    python benchmarks/studies/population.py --threads 2

Both are compiled and timed in turn, round by round, so that a busy machine slows both; reported are
medians over the rounds of the time of a step of all members, and of the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.networks import MLP, LeNet
from adatune_func.search import looped, stack, vmapped
from benchmarks.run import record


def batchnorm_network() -> nn.Module:
    widths, layers = (1, 16, 32), []
    for inputs, outputs in pairwise(widths):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP((256, 128)),
    "lenet": lambda: LeNet((6, 16)),
    "batchnorm": batchnorm_network,
}

METHODS: dict[str, Callable[[Any], atf.Tuner]] = {
    "hd": lambda loss_fn: atf.hd(loss_fn, atf.sgd(momentum=0.9), hyper_update=atf.additive(1e-5)),
    "marthe": lambda loss_fn: atf.marthe(
        loss_fn, atf.sgd(momentum=0.9), hyper_update=atf.additive(1e-5)
    ),
}


def measure(
    network: str, method: str, members: int, batch_size: int, args: argparse.Namespace
) -> dict[str, Any]:
    torch.manual_seed(0)
    loss_fn, params, buffers = atf.functionalize(
        NETWORKS[network]().to(args.device), F.cross_entropy
    )
    tuner = METHODS[method](loss_fn)
    pair = [
        (
            torch.randn(batch_size, 1, 28, 28, device=args.device),
            torch.randint(0, 10, (batch_size,), device=args.device),
        )
        for _ in range(2)
    ]
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    lrs = [0.001 * 1.2**i for i in range(members)]
    states = [tuner.init(params, {"lr": lr}, buffers) for lr in lrs]
    ways: dict[str, tuple[Callable[..., Any], Any]] = {
        "loop": (looped(_compiled(tuner.step, args)), states),
        "vmap": (_compiled(vmapped(tuner.step), args), stack(states)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(args.rounds + 1):  # the first compiles
        for name, (step, population) in ways.items():
            step(population, *pair)
            wait()
            began = time.perf_counter()
            for _ in range(args.steps):
                population, _ = step(population, *pair)
            wait()
            if round_number:
                times[name].append(1e3 * (time.perf_counter() - began) / args.steps)
    ratios = [a / b for a, b in zip(times["loop"], times["vmap"], strict=True)]
    return {
        "network": network,
        "method": method,
        "members": members,
        "batch_size": batch_size,
        "device": args.device,
        "threads": torch.get_num_threads(),
        "compiled": not args.eager,
        "loop_ms": statistics.median(times["loop"]),
        "vmap_ms": statistics.median(times["vmap"]),
        "speedup": statistics.median(ratios),
        "speedup_min": min(ratios),
        "speedup_max": max(ratios),
    }


def _compiled(step: Callable[..., Any], args: argparse.Namespace) -> Callable[..., Any]:
    return step if args.eager else atf.jit(step)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["marthe"])
    parser.add_argument("--members", nargs="+", type=int, default=[16])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "population.json")
    parser.add_argument("--eager", action="store_true", help="without the compiler")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    keys = ("network", "method", "members", "batch_size", "device", "threads", "compiled")
    for network in args.networks:
        for method in args.methods:
            for members in args.members:
                row = measure(network, method, members, args.batch_size, args)
                run = record.provenance(vars(args), args.device)
                record.merge(args.output, [row], keys, run)
                print(record.table([row], list(row)), flush=True)


if __name__ == "__main__":
    main()
