"""How good is a cheap Z? Its cosine with the exact Z along the same real training steps.

    python -m benchmarks.studies.curvature --networks mlp lenet_small --learning-rates 0.001 0.1

All strategies walk beside one training run, SGD with momentum at a constant learning rate, on the
same batches; each carries a Z of its own. Reported over the steps: median and smallest cosine with
the exact Z, the norms' ratio, and the relative error of the hypergradient on the same validation
batch. A network's name with ``_smooth`` has GELU and average pooling for ReLU and max-pooling.
What does not beat ``no_curvature`` is not worth its price.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import adatune_func as atf
from adatune_func import data
from adatune_func.trees import dot, norm
from benchmarks.run import record
from benchmarks.studies.models import MODELS, smooth


def part(hvp: Any, fraction: float, factor: float) -> Any:
    """``factor`` times the product of a fraction of the batch."""
    return atf.scale_products(atf.on_fraction(hvp, fraction), factor)


#: name -> the hvps of successive steps; one that advances Z every k steps has k of them.
STRATEGIES: dict[str, Sequence[Any]] = {
    "exact": [atf.exact],
    "no_curvature": [atf.no_curvature],
    "exact on 1/2": [atf.on_fraction(atf.exact, 1 / 2)],
    "exact on 1/4": [atf.on_fraction(atf.exact, 1 / 4)],
    "exact on 1/8": [atf.on_fraction(atf.exact, 1 / 8)],
    "gauss_newton": [atf.gauss_newton],
    "gauss_newton on 1/2": [atf.on_fraction(atf.gauss_newton, 1 / 2)],
    "gauss_newton on 1/4": [atf.on_fraction(atf.gauss_newton, 1 / 4)],
    "gauss_newton on 1/8": [atf.on_fraction(atf.gauss_newton, 1 / 8)],
    "exact on 1/4, halved": [part(atf.exact, 1 / 4, 1 / 2)],
    "gauss_newton on 1/4, halved": [part(atf.gauss_newton, 1 / 4, 1 / 2)],
    "gauss_newton on 1/8, halved": [part(atf.gauss_newton, 1 / 8, 1 / 2)],
    "gauss_newton on 1/8, a quarter of it": [part(atf.gauss_newton, 1 / 8, 1 / 4)],
    "finite_difference": [atf.finite_difference()],
    "central_difference": [atf.finite_difference(central=True)],
    "exact each 4th step": [atf.exact, *[atf.no_curvature] * 3],
}

COLUMNS = ["strategy", "cosine", "smallest cosine", "norm", "hypergradient error", "loss"]


def steps_of(
    loss_fn: Any, optimizer: Any, strategies: Sequence[str], eager: bool
) -> dict[str, list[Any]]:
    """Each strategy's steps; mu and learning rate are in the state, so one graph serves all."""
    compiled = (lambda step: step) if eager else atf.jit
    hvps = {id(hvp): hvp for strategy in strategies for hvp in STRATEGIES[strategy]}
    steps = {
        key: compiled(atf.marthe(loss_fn, optimizer, hyper_update=atf.additive(0.0), hvp=hvp).step)
        for key, hvp in hvps.items()
    }
    return {strategy: [steps[id(hvp)] for hvp in STRATEGIES[strategy]] for strategy in strategies}


def walk(
    case: dict[str, Any], start: atf.TunerState, steps: dict[str, list[Any]], arguments: Any
) -> list[dict[str, Any]]:
    """One run with every strategy beside it; one row a strategy."""
    state = start
    strategies = [strategy for strategy in steps if strategy != "exact"]
    tangents = dict.fromkeys(strategies, state.z)
    seen: dict[str, list[tuple[float, float, float]]] = {strategy: [] for strategy in strategies}
    losses, refused = [], 0
    pairs = itertools.islice(_batches(case["network"], arguments), arguments.steps)
    for t, (batch, val_batch) in enumerate(pairs):
        moved, info = steps["exact"][0](state, batch, val_batch)
        for strategy in strategies:
            step = steps[strategy][t % len(steps[strategy])]
            beside, guess = step(state._replace(z=tangents[strategy]), batch, val_batch)
            tangents[strategy] = beside.z
            seen[strategy].append(_compare(beside.z, guess, moved.z, info))
        losses.append(float(info.loss))
        refused += int(not info.accepted)
        state = moved
    return [
        {
            **case,
            "strategy": strategy,
            **_summary(seen[strategy]),
            "loss": statistics.fmean(losses[-10:]),
            "refused": refused,
            "steps": arguments.steps,
            "batch_size": arguments.batch_size,
        }
        for strategy in strategies
    ]


def _batches(name: str, arguments: Any) -> Iterator[Any]:
    images = data.load(MODELS[name.removesuffix("_smooth")].data, arguments.data)
    return zip(
        data.train_batches(images, arguments.batch_size, seed=0),
        data.validation_batches(images, arguments.batch_size, seed=1),
        strict=False,
    )


def _compare(
    z: Any, info: atf.Info, exact_z: Any, exact_info: atf.Info
) -> tuple[float, float, float]:
    """Cosine and ratio of norms of Z^w with the exact one, relative error of h.

    A Z that overflowed points nowhere: cosine 0, and the others infinite.
    """
    one, two = norm(z.params), norm(exact_z.params)
    h, exact_h = info.hypergrads["lr"], exact_info.hypergrads["lr"]
    cosine = dot(z.params, exact_z.params) / (one * two)
    error = (h - exact_h).abs() / exact_h.abs()
    return (
        float(cosine.nan_to_num(0.0)),
        float((one / two).nan_to_num(math.inf, math.inf)),
        float(error.nan_to_num(math.inf, math.inf)),
    )


def _summary(seen: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    cosines, ratios, errors = zip(*seen, strict=True)
    return {
        "cosine": statistics.median(cosines),
        "smallest cosine": min(cosines),
        "norm": statistics.median(ratios),
        "hypergradient error": statistics.median(errors),
    }


@torch._dynamo.config.patch(recompile_limit=64)  # each method and network is a graph
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mlp", "mlp_smooth"])
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[0.001, 0.01, 0.1])
    parser.add_argument("--mu", nargs="+", type=float, default=[0.99, 0.999])
    names = [name for name in STRATEGIES if name != "exact"]
    parser.add_argument("--strategies", nargs="+", default=names, choices=names)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="for short runs of small networks")
    parser.add_argument("--data", default="data")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "curvature.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks:
        torch.manual_seed(0)
        model = MODELS[name.removesuffix("_smooth")]
        module = smooth(model.build()) if name.endswith("_smooth") else model.build()
        loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
        optimizer = atf.sgd(momentum=0.9)
        steps = steps_of(loss_fn, optimizer, ["exact", *arguments.strategies], arguments.eager)
        for learning_rate, mu in itertools.product(arguments.learning_rates, arguments.mu):
            began = time.perf_counter()
            tuner = atf.marthe(loss_fn, optimizer, mu=mu, hyper_update=atf.additive(0.0))
            case = {"network": name, "lr": learning_rate, "mu": mu}
            rows = walk(case, tuner.init(params, {"lr": learning_rate}, buffers), steps, arguments)
            run = record.provenance(vars(arguments))
            record.merge(arguments.output, rows, (*case, "strategy"), run)
            print(f"\n{case} in {time.perf_counter() - began:.0f} s")
            print(record.table(rows, COLUMNS), flush=True)


if __name__ == "__main__":
    main()
