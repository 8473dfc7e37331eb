"""Train an image classifier while its learning rate is tuned: MARTHE, RTHO, HD on validation.

    python benchmarks/rtho.py                                   # digits, no download
    python benchmarks/rtho.py --dataset mnist --num-epoch 3
    python benchmarks/rtho.py --network vgg --dataset cifar_10 --momentum 0.9 --hyper-lr 1e-8

What runs is the recipe, from any lr, unless an option names another method: ``--no-recipe`` is
MARTHE at each step, ``--mu 1`` RTHO, ``--mu 0`` HD with the outer gradient on the validation set,
``--mu`` below 0 adapts mu. Without ``--hyper-lr`` there is nothing to set: the relative rule moves
log lr. With ``--hyper-lr auto`` (and ``--alpha auto``) the additive rule's constants are searched
first, by short runs from the same start; what was tried is in the run's search.json and search.png.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import adatune_func as atf
from adatune_func import replicas, search
from benchmarks.run import command_line, jobs, ranks, training
from benchmarks.run.jobs import Job

#: What AdaTune's rtho.py starts with.
ADATUNE = {
    "network": "vgg", "dataset": "cifar_10", "num_epoch": 200, "batch_size": 128, "lr": 0.01,
    "hyper_lr": 1e-8, "alpha": 1e-6, "mu": 0.99999, "grad_clipping": 100.0,
    "model_loc": "./model.pt",
}  # fmt: skip

#: MARTHE's default.
MU = 0.995

#: The search for --hyper-lr auto: steps, three horizons of mu = 0.995, and how many runs a round.
SEARCH_STEPS, SEARCH_MEMBERS = 600, 8


def parser() -> argparse.ArgumentParser:
    parser = command_line.parser("rtho.py", __doc__)
    command_line.add_images(parser)
    command_line.add_optimizer(parser)
    add = parser.add_argument_group("tuning").add_argument
    add(
        "--mu",
        type=discount,
        default=MU,
        metavar="X",
        help="discount: 1 is RTHO, 0 HD on validation, below 0 adapts it (0.995)",
    )
    add(
        "--hyper-lr",
        type=number_or_auto,
        metavar="X",
        help="step of the additive rule, as in the papers, or auto (off: the relative rule)",
    )
    add(
        "--alpha",
        type=number_or_auto,
        default=0.0,
        metavar="X",
        help="adapts --hyper-lr, or auto; 0 keeps it fixed (0)",
    )
    add(
        "--average",
        type=command_line.count,
        metavar="N",
        help="judge, validate and keep the average of the weights of N steps (off)",
    )
    add(
        "--recipe",
        action=argparse.BooleanOptionalAction,
        help="tune in windows, judge at an average, cool down in the last fifth (on unless another "
        "method is named)",
    )
    add(
        "--first-order",
        action="store_true",
        help="no recursion, Z = B: mu 0 without curvature (off)",
    )
    command_line.add_run(parser)
    return parser


def number_or_auto(text: str) -> float | str:
    """A finite number, 0 or above, or the word auto."""
    if text == "auto":
        return text
    try:
        return command_line.number(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or auto") from None


def discount(text: str) -> float:
    """A number up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -math.inf < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number up to 1, got {text!r}")
    return value


def build(args: argparse.Namespace, job: Job) -> training.Plan:
    """The tuner that the options describe; ``auto`` in them becomes what a search finds."""
    if args.recipe is None:
        other = (args.hyper_lr is not None, args.average, args.first_order, args.mu != MU)
        args.recipe = not any(other)
    if args.alpha and args.hyper_lr is None:
        raise ValueError("--alpha adapts --hyper-lr: give that too")
    if args.recipe and args.average:
        raise ValueError("--recipe has an average of its own: leave out --average")
    if args.alpha == "auto" and args.hyper_lr != "auto":
        raise ValueError("--alpha auto goes with --hyper-lr auto: both are found in one search")
    if args.hyper_lr == "auto" and ranks.count() > 1:
        raise ValueError(
            "--hyper-lr auto searches in one process: run it without torchrun for a few steps "
            "(--max-steps 1) and give the --hyper-lr and --alpha that it finds"
        )
    tried = searched(args, job) if args.hyper_lr == "auto" else []
    plan = training.Plan(tuner_of(args, job), {"lr": args.lr}, tried=tried)
    if args.recipe:
        plan = plan._replace(due=recipe_of(args, job).due)
    if args.recipe or args.average:
        at_average = functools.partial(jobs.at_average, job, args.batch_size)
        plan = plan._replace(model=at_average)
    return plan


def recipe_of(args: argparse.Namespace, job: Job) -> atf.Recipe:
    """The recipe; what the options say of products and rule holds in it, too."""
    # Of the epochs, not of --max-steps: a run that is stopped early and goes on is the same run.
    steps = job.steps_per_epoch * args.num_epoch
    return atf.recipe(job.model.loss_fn, command_line.optimizer_of(args), steps, **options_of(args))


def tuner_of(args: argparse.Namespace, job: Job) -> atf.Tuner:
    if args.recipe:
        return recipe_of(args, job).tuner
    optimizer = command_line.optimizer_of(args)
    average = atf.averaged(optimizer, args.average) if args.average else optimizer
    return atf.marthe(job.model.loss_fn, average, **options_of(args))


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``marthe`` that the options name."""
    additive = args.hyper_lr is not None
    hvp = atf.no_curvature if args.first_order else atf.exact
    return {
        "mu": 0.0 if args.first_order else atf.adaptive() if args.mu < 0 else args.mu,
        **({"hyper_update": atf.additive(args.hyper_lr, args.alpha)} if additive else {}),
        "hvp": atf.clip_products(hvp, args.grad_clipping) if args.grad_clipping else hvp,
        "clip_outer": args.grad_clipping,
        "mean": replicas.mean(),
    }


def searched(args: argparse.Namespace, job: Job) -> list[dict[str, float]]:
    """Put what ``find_hyper_lr`` finds in the place of ``auto``; return what it tried."""
    alpha, args.hyper_lr = args.alpha, 0.0
    args.alpha = 0.0 if alpha == "auto" else alpha
    tuner = tuner_of(args, job)
    state = tuner.init(job.model.params, {"lr": args.lr}, job.model.buffers)
    steps = min(SEARCH_STEPS, job.steps)
    batches = training.batches_of(args, job, training.Plan(tuner, {"lr": args.lr}), 0)
    compiled = command_line.compiles(args, steps * SEARCH_MEMBERS)
    found = search.find_hyper_lr(
        tuner,
        state,
        itertools.islice(batches, steps),
        members=SEARCH_MEMBERS,
        adapt=alpha == "auto",
        wrap=atf.jit if compiled else lambda step: step,
    )
    args.hyper_lr = found.hyper_lr["lr"]
    args.alpha = found.alpha if alpha == "auto" else args.alpha
    print(f"found --hyper-lr {args.hyper_lr:.3g} --alpha {args.alpha:.3g} by runs of {steps} steps")
    return found.table


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(parser(), build, argv, ADATUNE)


if __name__ == "__main__":
    raise SystemExit(main())
