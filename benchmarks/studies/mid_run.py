"""A change in the middle of a run: how long until lr is what a run that begins there finds.

    python -m benchmarks.studies.mid_run --methods recipe hd

MNIST, MLP, SGD with momentum, the recipe with an open end, or HD as published with its constant
found first. At a third of the run the inputs become four times as large, or batches four times as
many samples, or the labels turn by one. A fresh run of the changed task says which lr it would
find; counted are the steps from the change until lr is within a factor of two of it and stays
there.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adatune_func as atf
from adatune_func import data
from benchmarks.run import record
from benchmarks.studies.contenders import SEARCH_STEPS, searched
from benchmarks.studies.tasks import OPTIMIZERS, TASKS

START = 1e-3
CHANGES = ("inputs x 4", "batch size x 4", "labels turned")


def batches(images: data.ImageData, change: str | None, at: int, seed: int) -> Iterator[Any]:
    """(training batch, validation batch) of each step, changed from step ``at`` on."""
    parts = (images.train, images.validation)
    generator = torch.Generator().manual_seed(seed)
    t = 0
    while True:
        now = change if t >= at else None
        yield tuple(_drawn(images, part, now, generator) for part in parts)
        t += 1


def _drawn(
    images: data.ImageData, part: Any, change: str | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    size = 512 if change == "batch size x 4" else 128
    index = torch.randint(len(part.labels), (size,), generator=generator)
    x, y = data.normalize(part.images[index], images.mean, images.std), part.labels[index]
    x = 4 * x if change == "inputs x 4" else x
    return x, (y + 1) % 10 if change == "labels turned" else y


#: ``run(batches, steps, seed) -> lrs``: lr after each step of a run from lr 0.001.
Run = Callable[[Iterator[Any], int, int], list[float]]


def recipe(network: Callable[[], nn.Module]) -> Run:
    loss_fn = atf.functionalize(network(), F.cross_entropy).loss_fn
    its = atf.recipe(loss_fn, OPTIMIZERS["sgd"], wrap=atf.jit)

    def path(pairs: Iterator[Any], steps: int, seed: int) -> list[float]:
        state, lrs = its.init(*_started(network, seed)), []
        for t, pair in zip(range(steps), pairs, strict=False):
            state, _ = its.step(t, state, *pair)
            lrs.append(float(state.hparams["lr"]))
        return lrs

    return path


def hd(network: Callable[[], nn.Module]) -> Run:
    loss_fn = atf.functionalize(network(), F.cross_entropy).loss_fn
    its = atf.hd(loss_fn, OPTIMIZERS["sgd"], hyper_update=atf.additive(0.0))
    step = atf.jit(its.step)

    def path(pairs: Iterator[Any], steps: int, seed: int) -> list[float]:
        state, lrs = its.init(*_started(network, seed)), []
        first = [next(pairs) for _ in range(SEARCH_STEPS)]
        state = searched(its, state, first)
        for _, pair in zip(range(steps), itertools.chain(first, pairs), strict=False):
            state, _ = step(state, *pair)
            lrs.append(float(state.hparams["lr"]))
        return lrs

    return path


METHODS: dict[str, Callable[..., Run]] = {"recipe": recipe, "hd": hd}


def _started(network: Callable[[], nn.Module], seed: int) -> tuple[Any, Any, Any]:
    torch.manual_seed(seed)
    _, params, buffers = atf.functionalize(network(), F.cross_entropy)
    return params, {"lr": START}, buffers


def steps_until(lrs: list[float], found: float) -> int | None:
    """From where on all of ``lrs`` lie within a factor of two of ``found``; ``None`` if never."""
    far = [i for i, lr in enumerate(lrs) if not found / 2 <= lr <= 2 * found]
    since = far[-1] + 1 if far else 0
    return since if since < len(lrs) else None


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--data", default="data")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "mid_run.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    images, network, at = data.load("mnist", args.data), TASKS["mnist"].network, args.steps // 3
    origin = record.provenance({"steps": args.steps, "changed at": at})
    for method in args.methods:
        path = METHODS[method](network)
        for seed, change in itertools.product(args.seeds, CHANGES):
            changed = path(batches(images, change, at, seed), args.steps, seed)
            fresh = path(batches(images, change, 0, seed), args.steps - at, seed)
            row = {"method": method, "change": change, "seed": seed}
            row |= {"before": changed[at - 1], "fresh": fresh[-1], "after": changed[-1]}
            row["steps"] = steps_until(changed[at:], fresh[-1])
            print(row, flush=True)
            record.merge(args.output, [row], ("method", "change", "seed"), origin)


if __name__ == "__main__":
    main()
