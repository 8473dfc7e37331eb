"""What bfloat16 does to a run of the recipe: inside the loss, and as the memory of Z.

    python -m benchmarks.studies.low_precision --task cifar_10 --optimizer sgd --data data

``compute`` runs forward pass, gradient and product under autocast; all that is carried stays
float32. ``z nearest`` and ``z stochastic`` run in float32 and round Z to bfloat16 after each step,
as if it were carried so. Of each: the test score at the end of a run of its own, and how far h and
Z are from those of float32 at the same weights, over the tuned steps of one float32 run.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import adatune_func as atf
from adatune_func.trees import columns, dot, norm, tree_map
from benchmarks.run import record
from benchmarks.studies.tasks import OPTIMIZERS
from benchmarks.studies.works import WORKS, Work

OUTPUT = record.RESULTS / "low_precision.json"
KEYS = ("task", "optimizer", "due", "what", "start", "seed")


def as_it_is(leaf: Tensor) -> Tensor:
    return leaf


def nearest(leaf: Tensor) -> Tensor:
    return leaf.bfloat16().float() if leaf.is_floating_point() else leaf


def stochastic(leaf: Tensor) -> Tensor:
    """Up or down with the chances that make the mean right: noise below the cut, then the cut."""
    if not leaf.is_floating_point():
        return leaf
    bits = leaf.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32)
    return ((bits + noise) & ~0xFFFF).view(torch.float32)


class Way(NamedTuple):
    """How numbers are narrowed: the run's loss under autocast or not, and Z after each step."""

    autocast: bool
    z: Callable[[Tensor], Tensor]


WAYS = {
    "float32": Way(False, as_it_is),
    "compute": Way(True, as_it_is),
    "z nearest": Way(False, nearest),
    "z stochastic": Way(False, stochastic),
}


class Made(NamedTuple):
    work: Work
    runs: dict[bool, atf.Recipe]  # by whether the loss is under autocast; compiled once


#: When the recipe tunes; at every step Z lives as long as mu lets it, not as long as a window.
DUES = {"windows": atf.windows(200, 50, 250), "every step": atf.windows(0, 1, 1)}


def made(work: Work, optimizer: str, due: str, wrap: Any) -> Made:
    loss_fn = atf.functionalize(work.network(), work.criterion).loss_fn

    def narrow(params: Any, buffers: Any, batch: Any) -> tuple[Tensor, Any]:
        with torch.autocast("cpu", torch.bfloat16):
            return loss_fn(params, buffers, batch)

    losses = {False: loss_fn, True: narrow}
    run = {
        key: atf.recipe(loss, OPTIMIZERS[optimizer], work.steps, due=DUES[due], wrap=wrap)
        for key, loss in losses.items()
    }
    return Made(work, run)


def started(its: Made, start: float, seed: int) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    model = its.work.network()
    _, params, buffers = atf.functionalize(model, its.work.criterion)
    return model, its.runs[False].init(params, {"lr": start}, buffers)


def score(its: Made, way: Way, start: float, seed: int) -> float:
    """Of a run from start to end; its model is tested in float32."""
    run, (model, state) = its.runs[way.autocast], started(its, start, seed)
    for t, pair in zip(range(its.work.steps), its.work.pairs(seed), strict=False):
        state, _ = run.step(t, state, *pair)
        state = state._replace(z=tree_map(way.z, state.z)) if run.due(t) else state
    atf.write_back(model, run.model(state))
    return its.work.score(model)


def beside(its: Made, start: float, seed: int) -> dict[str, dict[str, Any]]:
    """h and Z of each way along a float32 run: tangents that see the same weights as its own."""
    run, (_, state) = its.runs[False], started(its, start, seed)
    tangents = dict.fromkeys([name for name in WAYS if name != "float32"], state.z)
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in tangents}
    for t, pair in zip(range(its.work.steps), its.work.pairs(seed), strict=False):
        after, info = run.step(t, state, *pair)
        for name in tangents if run.due(t) else ():
            way = WAYS[name]
            narrow = state._replace(z=tangents[name])
            other, its_info = its.runs[way.autocast].step(t, narrow, *pair)
            tangents[name] = tree_map(way.z, other.z)
            h, right = float(its_info.hypergrads["lr"]), float(info.hypergrads["lr"])
            seen[name].append((h, right, cosine(other.z.params, after.z.params)))
        state = after
    return {name: summary(found) for name, found in seen.items()}


def cosine(a: Any, b: Any) -> float:
    """Of the first columns; 1 where both are 0."""
    a, b = columns.first(a), columns.first(b)
    lengths = float(norm(a) * norm(b))
    return float(dot(a, b)) / lengths if lengths else 1.0


def summary(found: list[tuple[float, float, float]]) -> dict[str, Any]:
    off = [abs(h - right) / abs(right) for h, right, _ in found if right]
    return {
        "tuned": len(found),
        "h_off_median": statistics.median(off),
        "h_off_90": statistics.quantiles(off, n=10)[-1],
        "h_same_sign": sum(h * right > 0 for h, right, _ in found) / len(found),
        "z_cosine_median": statistics.median(cosine for *_, cosine in found),
        "z_cosine_10": statistics.quantiles([cosine for *_, cosine in found], n=10)[0],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=WORKS, default="digits")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--due", choices=DUES, default="windows")
    parser.add_argument("--starts", type=float, nargs="+", default=[1e-6, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of a shorter trial")
    parser.add_argument("--data", default="data", help="folder of the image sets")
    parser.add_argument("--text", type=Path, help="a file, for --task characters")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    work = WORKS[args.task](args)
    work = work._replace(steps=args.steps or work.steps)
    its = made(work, args.optimizer, args.due, atf.jit if args.compile else as_it_is)
    for seed, start in itertools.product(args.seeds, args.starts):
        along = beside(its, start, seed) if seed == args.seeds[0] else {}
        for name, way in WAYS.items():
            key = (args.task, args.optimizer, args.due, name, start, seed)
            row = dict(zip(KEYS, key, strict=True)) | {"score": score(its, way, start, seed)}
            row |= along.get(name, {})
            print(row, flush=True)
            record.merge(args.output, [row], KEYS, record.provenance(vars(args)))


if __name__ == "__main__":
    main()
