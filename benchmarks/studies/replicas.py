"""What ranks cost on one machine: seconds a step, and the share of it that is spent in collectives.

    torchrun --nproc-per-node 2 -m benchmarks.studies.replicas     # and with 1

One thread a rank, the whole batch the same for all numbers of ranks. A collective's time includes
waiting for the slower rank. ``--one-rank --device cuda``
sends through NCCL where there is one GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

import adatune_func as atf
from adatune_func import networks, replicas
from adatune_func.trees import tree_map
from benchmarks.run import ranks, record
from benchmarks.studies.speed import Autocast

OUTPUT = record.RESULTS / "replicas.json"
METHODS = ("plain", "hd", "exact")


def tuner_of(method: str, loss_fn: Any, mean: Any) -> atf.Tuner:
    optimizer = atf.sgd(momentum=0.9)
    if method == "plain":
        return atf.plain(loss_fn, optimizer, mean=mean)
    return (atf.hd if method == "hd" else atf.marthe)(loss_fn, optimizer, mean=mean)


class Watch:
    """A mean that also takes the time."""

    def __init__(self, mean: Any) -> None:
        self.mean, self.seconds = mean, 0.0

    def __call__(self, tree: Any) -> Any:
        began = time.perf_counter()
        result = self.mean(tree)
        self.seconds += time.perf_counter() - began
        return result


def measured(network: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """The median step of a number of rounds, and its share in collectives."""
    torch.manual_seed(0)
    module = networks.network(network, num_classes=10, in_channels=1, image_size=32)
    module = module.to(args.device)
    if args.autocast:
        module = Autocast(module, args.device)
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    group = dist.group.WORLD if args.one_rank else None
    watch = Watch(replicas.mean(group))
    tuner = tuner_of(method, loss_fn, watch.mean if args.compile else watch)
    state = tuner.init(params, {} if method == "plain" else {"lr": 1e-3}, buffers)
    step = atf.jit(tuner.step) if args.compile else tuner.step
    images = torch.randn(args.batch_size, 1, 32, 32, device=args.device)
    whole = images, torch.arange(args.batch_size, device=args.device) % 10
    batch = tree_map(torch.clone, replicas.part(whole))
    seconds, waits = [], []
    for _ in range(args.rounds + 3):
        watch.seconds, began = 0.0, time.perf_counter()
        state, _ = step(state, batch, batch)
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        waits.append(watch.seconds / seconds[-1])
    row = {
        "network": network,
        "method": method,
        "ranks": ranks.count(),
        "compiled": args.compile,
        "device": args.device,
        "autocast": args.autocast,
        "batch_size": args.batch_size,
        "seconds": statistics.median(seconds[3:]),
        "images_per_second": args.batch_size / statistics.median(seconds[3:]),
    }
    return row if args.compile else {**row, "in_collectives": statistics.median(waits[3:])}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mlp", "lenet"])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 in the forward pass")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--one-rank", action="store_true", help="send, if to nobody else")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.one_rank:
        backend = "nccl" if args.device == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    ranks.start(args.device)
    with ranks.together():
        rows = [measured(n, method, args) for n in args.networks for method in args.methods]
        if ranks.is_first():
            keys = ("network", "method", "ranks", "compiled", "device", "autocast")
            # what else ran: others' processes take cores that a second rank needs
            run = {**record.provenance(vars(args), args.device), "load": os.getloadavg()[0]}
            record.merge(args.output, rows, keys, run)
            print(record.table(rows, [*keys, "seconds", "images_per_second", "in_collectives"]))


if __name__ == "__main__":
    main()
