"""The recipe, piece by piece, from any start, beside cosine over its grid and other packages.

    python -m benchmarks.studies.recipe --task mnist --methods recipe cut --starts 1e-6 1
    python -m benchmarks.studies.recipe --task characters --optimizer adamw --text input.txt

Each run is appended to results/recipe.json as it ends, and one that is there is not run again, so
that the grid may be run in parts. ``--table`` prints means and worst runs of what is there. A row
has what was tested at the average of the weights and at the weights themselves, lr at each tenth of
the run, how many steps were tuned and how often the bound cut or began again. Rows of methods that
are not offered, "one witness" and "the smaller ratio", are of the rules before (benchmarks/LOG.md).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import adatune_func as atf
from adatune_func import schedules
from benchmarks.run import record
from benchmarks.studies import contenders, gen, rivals
from benchmarks.studies.tasks import OPTIMIZERS
from benchmarks.studies.works import WORKS, Work

KEYS = ("task", "optimizer", "method", "start", "seed", "steps")
STARTS = (1e-6, 1e-5, 1e-3, 0.1, 1.0)


#: ``make(loss_fn, optimizer, steps, wrap) -> Recipe``
METHODS: dict[str, Callable[..., atf.Recipe]] = {
    "recipe": atf.recipe,
    "recipe, half the length": functools.partial(atf.recipe, due=atf.windows(200, 25, 250)),
    "recipe, three tuned": atf.recipe,
    "no_bound": functools.partial(atf.recipe, bound=None),
    **{
        f"{name} {kappa:g}": functools.partial(atf.recipe, bound=bound(kappa))
        for name, bound, kappas in (
            ("cut", atf.cut, (0.5, 1.0, 1.5, 2.0, 3.0)),
            ("begin again", atf.begin_again, (1.1, 2.0, 3.0)),  # 1.5 is the recipe's
        )
        for kappa in kappas
    },
}

CHOICES = {
    **OPTIMIZERS,
    "muon": atf.muon(rest=("embedding", "positions", "head")),  # of the characters
}

#: Plain training by schedules of the largest lr and the number of steps.
PLANS: dict[str, Callable[[float, int], schedules.Schedule]] = {
    "cosine": schedules.cosine,
    "linear": lambda lr, steps: schedules.cooldown(lr, steps, last=1.0),
    "wsd": schedules.cooldown,  # warm-up, stable, decay over the last fifth
}


def runs_of(args: argparse.Namespace, work: Work, method: str) -> Callable[[float, int], Any]:
    """``run(start, seed) -> row``; compiled once for all starts and seeds."""
    if method in rivals.PACKAGES:
        return functools.partial(_rival_run, work, method, args.optimizer)
    if method == "gen":
        return functools.partial(_gen_run, work, args.optimizer)
    wrap = atf.jit if args.compile else lambda fn: fn
    optimizer = CHOICES[args.optimizer]
    loss_fn = atf.functionalize(work.network(), work.criterion).loss_fn
    if method == "hd":
        tuner = atf.hd(loss_fn, optimizer, hyper_update=atf.additive(0.0))
        return functools.partial(_hd_run, work, tuner, wrap(tuner.step))
    if method in PLANS:
        tuner = atf.plain(loss_fn, optimizer)
        return functools.partial(_planned_run, work, PLANS[method], tuner, wrap(tuner.step))
    more = contenders.MORE[args.optimizer] if method == "recipe, three tuned" else {}
    made = METHODS[method](loss_fn, optimizer, work.steps, wrap=wrap)
    return functools.partial(_run, work, made, more)


def _started(work: Work, seed: int) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(seed)
    model = work.network()
    _, params, buffers = atf.functionalize(model, work.criterion)
    return model, params, buffers


def _run(
    work: Work, its: atf.Recipe, more: dict[str, float], start: float, seed: int
) -> dict[str, Any]:
    model, params, buffers = _started(work, seed)
    state = its.init(params, {"lr": start, **more}, buffers)
    lrs, shortened, refused, tuned = [], torch.zeros(()), torch.zeros(()), 0
    for t, pair in zip(range(work.steps), work.pairs(seed), strict=False):
        if t % max(work.steps // 10, 1) == 0:
            lrs.append(float(state.hparams["lr"]))
        state, info = its.step(t, state, *pair)
        tuned += its.due(t)
        shortened, refused = shortened + (info.kept["lr"] < 1), refused + ~info.accepted
    scores = {}
    for name, end in (("at_w", state), ("score", its.model(state))):
        atf.write_back(model, end)
        scores[name] = work.score(model)
    return {
        **scores,
        "lrs": [*lrs, float(state.hparams["lr"])],
        "tuned": tuned,
        # a tuned step is 2 plain ones and 2 more a column
        "products_a_step": round(1 + (3 + 2 * len(more)) * tuned / work.steps, 3),
        "ends": {name: float(state.hparams[name]) for name in more},
        "shortened": int(shortened),
        "refused": int(refused),
    }


def _planned_run(
    work: Work, plan_of: Any, its: atf.Tuner, step: Any, start: float, seed: int
) -> dict[str, Any]:
    """Plain training with lr from outside, so that one graph does for the whole grid."""
    plan = plan_of(start, work.steps)
    plan = schedules.warm_up(plan, work.warm_up) if work.warm_up else plan
    model, params, buffers = _started(work, seed)
    state = its.init(params, {"lr": start}, buffers)
    for t, (batch, _) in zip(range(work.steps), work.pairs(seed), strict=False):
        state = state._replace(hparams={"lr": torch.tensor(float(plan(t)))})
        state, _ = step(state, batch)
    atf.write_back(model, state)
    return {"score": work.score(model), "products_a_step": 1.0}


def _hd_run(work: Work, its: atf.Tuner, step: Any, start: float, seed: int) -> dict[str, Any]:
    """As published, its hyper-learning-rate the largest stable one on the run's first batches."""
    model, params, buffers = _started(work, seed)
    state, pairs = its.init(params, {"lr": start}, buffers), iter(work.pairs(seed))
    first = list(itertools.islice(pairs, min(work.steps, contenders.SEARCH_STEPS)))
    state = contenders.searched(its, state, first)
    for _, pair in zip(range(work.steps), itertools.chain(first, pairs), strict=False):
        state, _ = step(state, *pair)
    atf.write_back(model, state)
    return {
        "score": work.score(model),
        "products_a_step": 1.0,
        "lrs": [float(state.hparams["lr"])],
    }


def _gen_run(work: Work, optimizer: str, start: float, seed: int) -> dict[str, Any]:
    model, _, _ = _started(work, seed)
    made = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), start, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(model.parameters(), start),
    }[optimizer]()
    lrs = gen.train(model, made, work.steps, work.pairs(seed), work.criterion)
    return {
        "score": work.score(model),
        "products_a_step": round(1 + 1 / gen.EVERY, 3),
        "lrs": lrs[-1:],
    }


def _rival_run(work: Work, method: str, optimizer: str, start: float, seed: int) -> dict[str, Any]:
    model, _, _ = _started(work, seed)
    outcome = rivals.train(
        method, optimizer, model, start, work.steps, iter(work.pairs(seed)), work.criterion
    )
    return {"score": work.score(outcome.model), "products_a_step": 1.0}


def run_grid(args: argparse.Namespace) -> None:
    work = WORKS[args.task](args)
    work = work._replace(steps=args.steps or work.steps)
    origin = record.provenance({k: v for k, v in vars(args).items() if k not in ("text", "output")})
    for method in args.methods:
        if not rivals.available(method, args.optimizer):
            continue
        run = None
        for seed, start in itertools.product(args.seeds, args.starts):
            key = (args.task, args.optimizer, method, start, seed, work.steps)
            if key in {tuple(row[k] for k in KEYS) for row in rows_of(args.output)}:
                continue
            run = run or runs_of(args, work, method)
            began = time.perf_counter()
            row = dict(zip(KEYS, key, strict=True)) | run(start, seed)
            row["seconds"] = round(time.perf_counter() - began, 1)
            row["lrs"] = [float(f"{lr:.3g}") for lr in row.get("lrs", [])]
            print(json.dumps(row), flush=True)
            record.merge(args.output, [row], KEYS, origin)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["rows"] if path.exists() else []


def table(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Mean and worst of what is there, over starts and seeds; of cosine, at its best start.

    A run that ended in NaN has no score: it is in ``lost`` and not in the mean.
    """
    lines, rows = [], rows_of(args.output)
    for cell in sorted({tuple(row[k] for k in KEYS[:3]) for row in rows}):
        its = [row for row in rows if tuple(row[k] for k in KEYS[:3]) == cell]
        sign = -1 if cell[0] == "characters" else 1  # nats: the lower, the better
        lost = sum(row["score"] is None for row in its)
        its = [row for row in its if row["score"] is not None]
        if cell[2] in PLANS:
            starts = {row["start"] for row in its}
            means = {lr: _mean([r["score"] for r in its if r["start"] == lr]) for lr in starts}
            best = max(means, key=lambda lr: sign * means[lr])
            its = [row for row in its if row["start"] == best]
        scores = [row["score"] for row in its] or [float("nan")]
        lines.append(
            dict(zip(KEYS[:3], cell, strict=True))
            | {"mean": round(_mean(scores), 3)}
            | {"worst": round(sign * min(sign * score for score in scores), 3), "runs": len(its)}
            | {"lost": lost}
            | {"starts": " ".join(f"{lr:g}" for lr in sorted({row["start"] for row in its}))}
            | {"shortened": round(_mean([row.get("shortened", 0) for row in its]), 1)}
            | {"products": round(_mean([row["products_a_step"] for row in its]), 2)}
        )
    return lines


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = (*METHODS, *PLANS, "hd", "gen", *rivals.PACKAGES)
    parser.add_argument("--task", choices=WORKS, default="digits_mlp")
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--optimizer", choices=CHOICES, default="sgd")
    parser.add_argument("--starts", nargs="+", type=float, default=STARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--steps", type=int, help="of a shorter trial")
    parser.add_argument("--data", default="data", help="folder of the image sets")
    parser.add_argument("--text", type=Path, help="a file, for --task characters")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "recipe.json")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="no runs: what there is")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.table:
        lines = table(args)
        print(record.table(lines, list(lines[0])))
    else:
        run_grid(args)


if __name__ == "__main__":
    main()
