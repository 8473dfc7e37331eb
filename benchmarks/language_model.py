"""Train a small language model on any text, its learning rate tuned by the recipe.

    python benchmarks/language_model.py                         # Python's own sources, no download
    python benchmarks/language_model.py --text shakespeare.txt --tokens characters
    python benchmarks/language_model.py --optimizer muon --lr 1e-6 --steps 5000

The recipe tunes lr in windows, judges at an average of the weights and cools down over the last
fifth of ``--steps``: there is no schedule to choose, and ``--lr`` is only where it starts. A run
leaves the folder that rtho.py leaves, and a sample of what the model writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import adatune_func as atf
from adatune_func import replicas
from benchmarks.run import command_line, texts, training
from benchmarks.run.jobs import Job


def parser() -> argparse.ArgumentParser:
    parser, count = command_line.parser("language_model.py", __doc__), command_line.count
    add = parser.add_argument_group("text and model").add_argument
    add("--text", metavar="FILE", help="what to learn (the sources of Python's standard library)")
    add("--tokens", choices=("bytes", "characters"), default="bytes", help="(bytes)")
    add("--data-root", default="data", metavar="DIR", help="where Python's sources go (data)")
    add("--context", type=count, default=64, metavar="N", help="tokens that it sees (64)")
    add("--width", type=count, default=64, metavar="N", help="of the decoder (64)")
    add("--layers", type=count, default=2, metavar="N", help="of the decoder (2)")
    add("--heads", type=count, default=4, metavar="N", help="of a layer's attention (4)")
    add("--tied", action="store_true", help="predict with the embedding itself (off)")
    add("--sample", type=count, default=400, metavar="N", help="tokens written at the end (400)")
    command_line.add_optimizer(parser, ("adamw", "adam", "sgd", "muon"), clips=False)
    add = parser.add_argument_group("length").add_argument
    add("--steps", type=count, default=2000, metavar="N", help="of the whole run (2000)")
    add("--validate-every", type=count, default=250, metavar="N", help="steps, an epoch (250)")
    add("--batch-size", type=count, default=32, metavar="N", help="pieces of text a step (32)")
    command_line.add_run(parser)
    # What the other scripts have options for, and the shared parts read.
    parser.set_defaults(network="decoder", grad_clipping=None)
    return parser


def build(args: argparse.Namespace, job: Job) -> training.Plan:
    """The recipe; a run that ``--max-steps`` stops early and that goes on is the same run."""
    optimizer, mean = optimizer_of(args), replicas.mean()
    its = atf.recipe(job.model.loss_fn, optimizer, args.steps, mean=mean)
    return training.Plan(its.tuner, {"lr": args.lr}, model=its.model, due=its.due)


def optimizer_of(args: argparse.Namespace) -> atf.Optimizer:
    """The optimizer that the options name; Muon leaves embedding and head to AdamW."""
    if args.optimizer != "muon":
        return command_line.optimizer_of(args)
    rest = ("embedding", "positions") if args.tied else ("embedding", "positions", "head")
    return atf.muon(lr=args.lr, weight_decay=args.wd, eps=args.eps, rest=rest)


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(parser(), build, argv, prepare=texts.prepare)


if __name__ == "__main__":
    raise SystemExit(main())
