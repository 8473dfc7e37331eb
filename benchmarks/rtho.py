"""Train an image classifier while its learning rate is tuned: MARTHE, RTHO, HD on validation.

    python benchmarks/rtho.py                                   # digits, no download
    python benchmarks/rtho.py --dataset mnist --num-epoch 3
    python benchmarks/rtho.py --network vgg --dataset cifar_10 --momentum 0.9 --hyper-lr 1e-8

``--mu 1`` is RTHO, ``--mu 0`` HD with the outer gradient on the validation set, ``--mu`` below 0
adapts mu. Without ``--hyper-lr`` there is nothing to set: the relative rule moves log lr.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import adatune_func as atf
from benchmarks import training

#: What AdaTune's rtho.py starts with.
ADATUNE = {
    "network": "vgg", "dataset": "cifar_10", "num_epoch": 200, "batch_size": 128, "lr": 0.01,
    "hyper_lr": 1e-8, "alpha": 1e-6, "mu": 0.99999, "grad_clipping": 100.0,
    "model_loc": "./model.pt",
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rtho.py", description=(__doc__ or "").split("\n")[0])
    training.add_arguments(parser)
    add = parser.add_argument
    add(
        "--mu",
        type=discount,
        default=0.99,
        metavar="X",
        help="discount: 1 is RTHO, 0 HD on validation, below 0 adapts it (0.99)",
    )
    add(
        "--hyper-lr",
        type=training.number,
        metavar="X",
        help="step of the additive rule, as in the papers (off: the relative rule)",
    )
    add(
        "--alpha",
        type=training.number,
        default=0.0,
        metavar="X",
        help="adapts --hyper-lr; 0 keeps it fixed (0)",
    )
    add("--first-order", action="store_true", help="no recursion, Z = B: mu 0 without curvature")
    return parser


def discount(text: str) -> float:
    """A number up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -math.inf < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number up to 1, got {text!r}")
    return value


def build(args: argparse.Namespace, job: training.Job) -> training.Plan:
    """The tuner that the options describe."""
    if args.alpha and args.hyper_lr is None:
        raise ValueError("--alpha adapts --hyper-lr: give that too")
    rule = atf.relative() if args.hyper_lr is None else atf.additive(args.hyper_lr, args.alpha)
    hvp = atf.no_curvature if args.first_order else atf.exact
    tuner = atf.marthe(
        job.model.loss_fn,
        training.optimizer_of(args),
        mu=0.0 if args.first_order else atf.adaptive() if args.mu < 0 else args.mu,
        hyper_update=rule,
        hvp=atf.clip_products(hvp, args.grad_clipping) if args.grad_clipping else hvp,
        clip_outer=args.grad_clipping,
    )
    return training.Plan(tuner, {"lr": args.lr})


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(parser(), build, argv, ADATUNE)


if __name__ == "__main__":
    raise SystemExit(main())
