"""Test accuracy by mu and by the longest step, from several starts side by side.

    python -m benchmarks.studies.horizon --task mnist --mus 0.99 0.995 0.998 --longest 0.03

What decided the defaults of ``marthe`` and ``relative``: the task and the batches are those of
``robustness.py``; every pair of mu and start is a member of one vmapped step.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import adatune_func as atf
from adatune_func import data, search
from benchmarks.run import record
from benchmarks.studies import tasks

KEYS = ("task", "optimizer", "seed", "mu", "longest", "start")


def run(args: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    task = tasks.TASKS[args.task]
    images = data.load(task.images, args.data)
    steps = task.epochs * (len(images.train.labels) // task.batch_size)
    members = list(itertools.product(args.mus, args.starts))
    models, states, step = [], [], None
    for mu, start in members:
        torch.manual_seed(seed)
        models.append(task.network())
        loss_fn, params, buffers = atf.functionalize(models[-1], F.cross_entropy)
        rule = atf.relative(longest=args.longest)
        tuner = atf.marthe(loss_fn, tasks.OPTIMIZERS[args.optimizer], mu=mu, hyper_update=rule)
        states.append(tuner.init(params, {"lr": start}, buffers))
        step = step or atf.jit(torch.func.vmap(tuner.step, in_dims=(0, None, None)))
    state, refused, rates = search.stack(states), torch.zeros(len(members)), []
    assert step is not None
    pairs = tasks.pairs_of(images, task.batch_size, seed)
    for t, (batch, val_batch) in zip(range(steps), pairs, strict=False):
        if t % (steps // 8) == 0:
            rates.append(state.hparams["lr"])
        state, info = step(state, batch, val_batch)
        refused = refused + ~info.accepted
    paths, rows = torch.stack(rates, 1).tolist(), []
    for number, member in enumerate(search.unstack(state)):
        atf.write_back(models[number], member)
        mu, start = members[number]
        case = (args.task, args.optimizer, seed, mu, args.longest, start)
        row = dict(zip(KEYS, case, strict=True)) | tasks.evaluate(models[number], images)
        row |= {"refused": int(refused[number])}
        rows.append(row | {"lrs": [float(f"{lr:.2g}") for lr in paths[number]]})
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=list(tasks.TASKS), default="mnist")
    parser.add_argument("--optimizer", choices=list(tasks.OPTIMIZERS), default="sgd")
    parser.add_argument("--mus", nargs="+", type=float, default=[0.99, 0.995, 0.998])
    parser.add_argument("--longest", type=float, default=0.03)
    parser.add_argument("--starts", nargs="+", type=float, default=[1e-5, 1e-3, 1e-1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", default="data", help="folder of the data sets")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "horizon.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for seed in args.seeds:
        rows = run(args, seed)
        record.merge(args.output, rows, KEYS, record.provenance(vars(args)))
        print(record.table(rows, [*KEYS, "accuracy", "loss", "refused"]), flush=True)


if __name__ == "__main__":
    main()
