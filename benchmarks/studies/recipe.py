"""The recipe, piece by piece, from any start, beside cosine over its grid and other packages.

    python -m benchmarks.studies.recipe --task mnist --methods recipe cut --starts 1e-6 1
    python -m benchmarks.studies.recipe --task characters --optimizer adamw --text input.txt

Each run is appended to results/recipe.json as it ends, and one that is there is not run again, so
that the grid may be run in parts. ``--table`` prints means and worst runs of what is there. A row
has what was tested at the average of the weights and at the weights themselves, lr at each tenth of
the run, how many steps were tuned and how often the bound cut or began again.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func import data, schedules
from benchmarks.run import record
from benchmarks.studies import characters, rivals
from benchmarks.studies.contenders import MORE
from benchmarks.studies.tasks import OPTIMIZERS, TASKS, evaluate, pairs_of

KEYS = ("task", "optimizer", "method", "start", "seed", "steps")
STARTS = (1e-6, 1e-5, 1e-3, 0.1, 1.0)


class Work(NamedTuple):
    """A task as the grid sees it."""

    network: Callable[[], nn.Module]
    criterion: Callable[..., torch.Tensor]
    steps: int
    pairs: Callable[[int], Iterable[Any]]  # of a seed
    score: Callable[[nn.Module], float]  # on the test part: accuracy in %, or nats
    warm_up: int  # steps of cosine's


def work_of(args: argparse.Namespace) -> Work:
    if args.task == "characters":
        if args.text is None:
            raise SystemExit("--task characters needs --text FILE: any long text")
        text = characters.load(args.text)
        return Work(
            lambda: characters.LanguageModel(text.vocabulary),
            characters.cross_entropy,
            args.steps or characters.STEPS,
            lambda seed: zip(
                characters.batches(text.train, seed),
                characters.batches(text.validation, seed + 1000),
                strict=True,
            ),
            lambda model: characters.test_loss(model, text),
            100,
        )
    task = TASKS[args.task]
    images = data.load(task.images, args.data)
    return Work(
        task.network,
        F.cross_entropy,
        args.steps or task.epochs * (len(images.train.labels) // task.batch_size),
        lambda seed: pairs_of(images, task.batch_size, seed),
        lambda model: evaluate(model, images)["accuracy"],
        0,
    )


#: ``make(loss_fn, optimizer, steps, wrap) -> Recipe``
METHODS: dict[str, Callable[..., atf.Recipe]] = {
    "recipe": atf.recipe,
    "recipe, half the length": functools.partial(atf.recipe, due=atf.windows(200, 25, 250)),
    "recipe, three tuned": atf.recipe,
    "cut": functools.partial(atf.recipe, bound=atf.cut(1.0)),
    "no_bound": functools.partial(atf.recipe, bound=None),
}


def runs_of(args: argparse.Namespace, work: Work, method: str) -> Callable[[float, int], Any]:
    """``run(start, seed) -> row``; compiled once for all starts and seeds."""
    if method in rivals.PACKAGES:
        return functools.partial(_rival_run, work, method, args.optimizer)
    wrap = atf.jit if args.compile else lambda fn: fn
    optimizer = OPTIMIZERS[args.optimizer]
    loss_fn = atf.functionalize(work.network(), work.criterion).loss_fn
    if method == "cosine":
        train = wrap(atf.plain(loss_fn, optimizer).step)
        return functools.partial(_cosine_run, work, atf.plain(loss_fn, optimizer), train)
    more = MORE[args.optimizer] if method == "recipe, three tuned" else {}
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


def _cosine_run(work: Work, its: atf.Tuner, step: Any, start: float, seed: int) -> dict[str, Any]:
    """Plain training with lr from outside, so that one graph does for the whole grid."""
    plan = schedules.cosine(start, work.steps)
    plan = schedules.warm_up(plan, work.warm_up) if work.warm_up else plan
    model, params, buffers = _started(work, seed)
    state = its.init(params, {"lr": start}, buffers)
    for t, (batch, _) in zip(range(work.steps), work.pairs(seed), strict=False):
        state = state._replace(hparams={"lr": torch.tensor(float(plan(t)))})
        state, _ = step(state, batch)
    atf.write_back(model, state)
    return {"score": work.score(model), "products_a_step": 1.0}


def _rival_run(work: Work, method: str, optimizer: str, start: float, seed: int) -> dict[str, Any]:
    model, _, _ = _started(work, seed)
    outcome = rivals.train(
        method, optimizer, model, start, work.steps, iter(work.pairs(seed)), work.criterion
    )
    return {"score": work.score(outcome.model), "products_a_step": 1.0}


def run_grid(args: argparse.Namespace) -> None:
    work = work_of(args)
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
    """Mean and worst of what is there, over starts and seeds; of cosine, at its best start."""
    lines, rows = [], rows_of(args.output)
    for cell in sorted({tuple(row[k] for k in KEYS[:3]) for row in rows}):
        its = [row for row in rows if tuple(row[k] for k in KEYS[:3]) == cell]
        sign = -1 if cell[0] == "characters" else 1  # nats: the lower, the better
        if cell[2] == "cosine":
            starts = {row["start"] for row in its}
            means = {lr: _mean([r["score"] for r in its if r["start"] == lr]) for lr in starts}
            best = max(means, key=lambda lr: sign * means[lr])
            its = [row for row in its if row["start"] == best]
        scores = [row["score"] for row in its]
        lines.append(
            dict(zip(KEYS[:3], cell, strict=True))
            | {"mean": round(_mean(scores), 3)}
            | {"worst": round(sign * min(sign * score for score in scores), 3), "runs": len(its)}
            | {"starts": " ".join(f"{lr:g}" for lr in sorted({row["start"] for row in its}))}
            | {"shortened": round(_mean([row.get("shortened", 0) for row in its]), 1)}
            | {"products": round(_mean([row["products_a_step"] for row in its]), 2)}
        )
    return lines


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = (*METHODS, "cosine", *rivals.PACKAGES)
    parser.add_argument("--task", choices=(*TASKS, "characters"), default="digits_mlp")
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
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
