"""The options that scripts share, by AdaTune's names where it has them."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import adatune_func as atf
from adatune_func import data, networks
from benchmarks.run.outputs import what

#: Runs shorter than this are over before compilation has paid off.
COMPILE_FROM_STEPS = 2000


def parser(prog: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser with the first line of the script's docstring, and the examples in it at the end."""
    first, *rest = (doc or "").strip().split("\n")
    examples = [line for line in rest if line.startswith("    python ")]
    return argparse.ArgumentParser(
        prog,
        description=first,
        epilog="\n".join(["examples:", *(line[2:] for line in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_images(parser: argparse.ArgumentParser) -> None:
    """Network and data of rtho.py and baselines.py."""
    known = ", ".join(networks.NETWORKS)
    add = parser.add_argument_group("what is trained").add_argument
    add("--network", default="lenet", metavar="NAME", help=f"{known} (lenet)")
    add(
        "--dataset",
        default="digits",
        metavar="NAME",
        help=f"{', '.join(data.SOURCES)} (digits, which needs no download)",
    )
    add("--data-root", default="data", metavar="DIR", help="where data sets lie (data)")
    add("--num-epoch", type=count, default=20, metavar="N", help="passes over the data (20)")
    add("--batch-size", type=count, default=64, metavar="N", help="images a step (64)")
    add("--adatune-defaults", action="store_true", help="start from AdaTune's defaults (off)")


def add_optimizer(
    parser: argparse.ArgumentParser,
    choices: tuple[str, ...] = ("sgd", "adam", "adamw"),
    clips: bool = True,
) -> None:
    """The optimizer, of whatever is trained; the first of the choices is the default."""
    add = parser.add_argument_group("optimizer").add_argument
    add("--optimizer", choices=choices, default=choices[0], help=f"({choices[0]})")
    add("--lr", type=positive, default=0.001, metavar="X", help="start learning rate (0.001)")
    add("--momentum", type=fraction, default=0.9, metavar="X", help="of sgd (0.9)")
    add("--wd", type=number, default=5e-4, metavar="X", help="weight decay (5e-4)")
    add("--eps", type=positive, default=1e-4, metavar="X", help="of adam and adamw (1e-4)")
    if clips:
        add("--grad-clipping", type=positive, metavar="C", help="clip gradients by value (off)")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Where and how a run runs."""
    add = parser.add_argument_group("the run").add_argument
    add("--max-steps", type=count, metavar="N", help="stop after so many steps (off)")
    add("--seed", type=seed, default=42, metavar="N", help="of weights, data and dropout (42)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(auto: cuda if there)")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help=f"compile the step (on from {COMPILE_FROM_STEPS} steps)",
    )
    add("--out", metavar="DIR", help="folder of the run (runs/<what it is>)")
    add("--model-loc", metavar="FILE", help="where the best model goes (<out>/model.pt)")
    add("--tensorboard", action="store_true", help="write TensorBoard events too (off)")
    add("--checkpoint-every", type=count, default=500, metavar="N", help="steps (500)")
    add(
        "--resume",
        metavar="DIR",
        help="continue the run in DIR; other options override its own (off)",
    )


def positive(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def number(text: str) -> float:
    """A finite number, 0 or above."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0, got {text}")
    return value


def fraction(text: str) -> float:
    """A number in [0, 1)."""
    value = number(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be below 1, got {text}")
    return value


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number that torch's generators take."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^63 - 1, got {text!r}")
    return int(text)


def compiles(args: argparse.Namespace, steps: int) -> bool:
    """Whether so many steps are compiled: as ``--compile`` says, else if it pays off."""
    return steps >= COMPILE_FROM_STEPS if args.compile is None else args.compile


def optimizer_of(args: argparse.Namespace) -> atf.Optimizer:
    """The optimizer that the options name, clipped if they say so."""
    if args.optimizer == "sgd":
        optimizer = atf.sgd(lr=args.lr, momentum=args.momentum, weight_decay=args.wd)
    else:
        adam = atf.adam if args.optimizer == "adam" else atf.adamw
        optimizer = adam(lr=args.lr, eps=args.eps, weight_decay=args.wd)
    return atf.clip_grads(optimizer, args.grad_clipping) if args.grad_clipping else optimizer


def run_name(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """What tells runs apart, so that one does not take the folder of another."""
    kind = getattr(args, "lr_scheduler", Path(parser.prog).stem)
    data = args.dataset if "dataset" in args else Path(args.text or "python").stem
    name = f"{kind}-{args.network}-{data}-{args.optimizer}-seed{args.seed}"
    named = ("lr_scheduler", "network", "dataset", "text", "optimizer", "seed", "script")
    for key, value in what(vars(args)).items():
        if key not in named and value != parser.get_default(key):
            name += f"-{key}" if value is True else f"-{key}{value}"
    return name
