"""Train an image classifier by the schedules that MARTHE is measured against, and by HD.

    python benchmarks/baselines.py --lr-scheduler cyclic             # digits, no download
    python benchmarks/baselines.py --lr-scheduler staircase --step-size 60 --lr-decay 0.1 --lr 0.1

``hd`` tunes lr by hypergradients of the next batch; ``ed`` (exponential decay) and ``staircase``
move it every epoch, ``cyclic`` (cosine with restarts) every step, ``constant`` never.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import adatune_func as atf
from adatune_func import replicas, schedules
from benchmarks.run import command_line, training
from benchmarks.run.jobs import Job

#: What AdaTune's baselines.py starts with.
ADATUNE = {
    "network": "vgg", "dataset": "cifar_10", "num_epoch": 200, "batch_size": 128, "lr": 0.01,
    "momentum": 0.0, "lr_scheduler": "hd", "model_loc": "./model.pt",
}  # fmt: skip

#: The options that each scheduler takes, with their values where they are not given.
OPTIONS: dict[str, dict[str, Any]] = {
    "hd": {"hyper_lr": None},
    "constant": {},
    "ed": {"lr_decay": 0.99},
    "staircase": {"step_size": 30, "lr_decay": 0.1},
    "cyclic": {"t_0": 10, "t_mult": 2},
}
ADATUNE_OPTIONS = {"hyper_lr": 1e-8, "lr_decay": 1.0}


def parser() -> argparse.ArgumentParser:
    parser = command_line.parser("baselines.py", __doc__)
    command_line.add_images(parser)
    command_line.add_optimizer(parser)
    add = parser.add_argument_group("learning rate").add_argument
    count, rate = command_line.count, command_line.positive
    add("--lr-scheduler", choices=tuple(OPTIONS), default="hd", help="(hd)")
    add("--hyper-lr", type=command_line.number, metavar="X", help="of hd (off: the relative rule)")
    add("--step-size", type=count, metavar="N", help="epochs between staircase's steps (30)")
    add("--lr-decay", type=rate, metavar="X", help="factor of staircase (0.1) and ed (0.99)")
    add("--t-0", type=count, metavar="N", help="epochs of cyclic's first run (10)")
    add("--t-mult", type=count, metavar="N", help="growth of cyclic's runs (2)")
    command_line.add_run(parser)
    return parser


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the scheduler needs; ValueError for an option that it does not take."""
    taken = OPTIONS[args.lr_scheduler]
    for name in {name for options in OPTIONS.values() for name in options} - set(taken):
        if getattr(args, name) is not None:
            owners = " and ".join(owner for owner, options in OPTIONS.items() if name in options)
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} is for --lr-scheduler {owners}, not {args.lr_scheduler}")
    start = {**taken, **(ADATUNE_OPTIONS if args.adatune_defaults else {})}
    given = {name: getattr(args, name) for name in taken}
    return {name: start[name] if given[name] is None else given[name] for name in taken}


def schedule_of(
    scheduler: str, lr: float, epoch: int, options: dict[str, Any]
) -> schedules.Schedule:
    """lr by the step, for epochs of ``epoch`` steps."""
    if scheduler == "ed":
        return schedules.exponential(lr, options["lr_decay"], every=epoch)
    if scheduler == "staircase":
        return schedules.staircase(lr, options["step_size"] * epoch, options["lr_decay"])
    if scheduler == "cyclic":
        t_0, t_mult = options["t_0"] * epoch, options["t_mult"]
        return schedules.cosine_restarts(lr, t_0, t_mult, final=1e-4 * lr)
    return schedules.constant(lr)


def build(args: argparse.Namespace, job: Job) -> training.Plan:
    """The tuner, or the plain training, that the options describe."""
    options, optimizer = options_of(args), command_line.optimizer_of(args)
    if args.lr_scheduler == "hd":
        hyper_lr = options["hyper_lr"]
        rule = atf.relative() if hyper_lr is None else atf.additive(hyper_lr)
        tuner = atf.hd(
            job.model.loss_fn,
            optimizer,
            hyper_update=rule,
            clip_outer=args.grad_clipping,
            mean=replicas.mean(),
        )
        return training.Plan(tuner, {"lr": args.lr}, validated=False)
    schedule: Any = schedule_of(args.lr_scheduler, args.lr, job.steps_per_epoch, options)
    tuner = atf.plain(job.model.loss_fn, optimizer, schedule, mean=replicas.mean())
    return training.Plan(tuner, {}, validated=False)


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(parser(), build, argv, ADATUNE)


if __name__ == "__main__":
    raise SystemExit(main())
