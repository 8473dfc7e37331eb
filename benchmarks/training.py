"""The loop that rtho.py and baselines.py share: options, training, evaluation, best model, resume.

A script adds its own options, builds a tuner and calls :func:`main`. Batch t depends on (seed, t)
alone, so a run is its configuration, and a checkpoint needs no more than the state and t.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import adatune_func as atf
from adatune_func import data as image_data
from adatune_func import networks
from adatune_func.data import ImageData, Split
from benchmarks import events, outputs
from benchmarks.curves import draw, draw_search
from benchmarks.outputs import START, Progress

#: Runs shorter than this are over before compilation has paid off.
COMPILE_FROM_STEPS = 2000


class Job(NamedTuple):
    """What a run trains: the data, the network as pure functions, and how long."""

    data: ImageData
    module: nn.Module
    model: atf.Functional
    device: torch.device
    steps_per_epoch: int
    steps: int


class Plan(NamedTuple):
    """How it trains: a tuner, what it tunes, whether its step takes a validation batch."""

    tuner: atf.Tuner
    hparams: dict[str, float]
    validated: bool = True
    tried: Sequence[dict[str, float]] = ()  # the runs of a search for its constants


Build = Callable[[argparse.Namespace, Job], Plan]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of both scripts, by AdaTune's names where it has them."""
    known = ", ".join(networks.NETWORKS)
    add = parser.add_argument
    add("--network", default="lenet", metavar="NAME", help=f"{known} (lenet)")
    add(
        "--dataset",
        default="digits",
        metavar="NAME",
        help=f"{', '.join(image_data.SOURCES)} (digits, which needs no download)",
    )
    add("--data-root", default="data", metavar="DIR", help="where data sets lie (data)")
    add("--num-epoch", type=count, default=20, metavar="N", help="passes over the data (20)")
    add("--max-steps", type=count, metavar="N", help="stop after so many steps")
    add("--batch-size", type=count, default=64, metavar="N", help="images a step (64)")
    add("--optimizer", choices=("sgd", "adam", "adamw"), default="sgd", help="(sgd)")
    add("--lr", type=positive, default=0.001, metavar="X", help="start learning rate (0.001)")
    add("--momentum", type=fraction, default=0.9, metavar="X", help="of sgd (0.9)")
    add("--wd", type=number, default=5e-4, metavar="X", help="weight decay (5e-4)")
    add("--eps", type=positive, default=1e-4, metavar="X", help="of adam and adamw (1e-4)")
    add("--grad-clipping", type=positive, metavar="C", help="clip gradients by value (off)")
    add("--seed", type=seed, default=42, metavar="N", help="of weights, data and dropout (42)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(auto: cuda if there)")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help=f"torch.compile the step (on from {COMPILE_FROM_STEPS} steps)",
    )
    add("--out", metavar="DIR", help="folder of the run (runs/<what it is>)")
    add("--model-loc", metavar="FILE", help="where the best model goes (<out>/model.pt)")
    add("--tensorboard", action="store_true", help="write TensorBoard events too")
    add("--checkpoint-every", type=count, default=500, metavar="N", help="steps (500)")
    add("--resume", metavar="DIR", help="continue the run in DIR; other options override its own")
    add("--adatune-defaults", action="store_true", help="start from AdaTune's defaults")


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


def main(
    parser: argparse.ArgumentParser,
    build: Build,
    argv: Sequence[str] | None,
    adatune: dict[str, Any],
) -> int:
    """Parse, train, return 0; a mistake of the user is one line on stderr and exit code 2."""
    parser.print_usage = lambda file=None: None  # errors in one line; --help has the rest
    args = parser.parse_args(argv)
    try:
        if args.adatune_defaults:
            parser.set_defaults(**adatune)
        if args.resume:
            if args.out:
                raise ValueError("--resume DIR continues in DIR: leave out --out")
            parser.set_defaults(**_config_of(args.resume, parser.prog))
        args = parser.parse_args(argv)
        args.script = parser.prog
        args.out = args.resume or args.out or str(Path("runs") / _name(parser, args))
        run(args, build)
    except (ValueError, OSError, ImportError) as error:
        parser.error(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print(f"stopped; continue with --resume {args.out}", file=sys.stderr)
        return 130
    return 0


#: Options that tell runs apart by a number.
NUMBERS = ("lr", "momentum", "wd", "eps", "mu", "hyper_lr", "alpha", "batch_size", "num_epoch")


def _config_of(folder: str, script: str) -> dict[str, Any]:
    config = outputs.read_config(Path(folder))
    if config.get("script") != script:
        raise ValueError(f"{folder} holds a run of {config.get('script')}, not of {script}")
    return config


def _name(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """What tells runs apart, so that one does not take the folder of another."""
    kind = getattr(args, "lr_scheduler", Path(parser.prog).stem)
    name = f"{kind}-{args.network}-{args.dataset}-{args.optimizer}-seed{args.seed}"
    changed = ((key, value) for key, value in vars(args).items() if key in NUMBERS)
    return name + "".join(f"-{key}{v}" for key, v in changed if v != parser.get_default(key))


def run(args: argparse.Namespace, build: Build) -> dict[str, Any]:
    """Train as ``args`` say and return what summary.json holds."""
    folder, model = Path(args.out), model_path(args)
    outputs.check_places(folder, model)
    record = events.recorder() if args.tensorboard else None
    job = prepare(args)
    plan = build(args, job)
    state = plan.tuner.init(job.model.params, hparams=plan.hparams, buffers=job.model.buffers)
    progress = START
    if args.resume:
        state, progress = outputs.restore(folder, state)
        outputs.write_config(folder, args)
    else:
        outputs.open_run(folder, model, args)
        if plan.tried:
            outputs.write(folder / "search.json", json.dumps(plan.tried, indent=1) + "\n")
            draw_search(folder, plan.tried)
    state, progress = fit(args, job, plan, state, progress)
    summary = finish(args, job, state, progress)
    if record is not None:
        record(folder, outputs.read_log(folder))
    return summary


def prepare(args: argparse.Namespace) -> Job:
    """Data and network on their device, everything checked that can be before training."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no CUDA device here; take --device cpu")
    cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    data = image_data.load(args.dataset, args.data_root, device=device)
    channels, size = data.train.images.shape[1:3]
    torch.manual_seed(args.seed)
    module = networks.network(
        args.network, num_classes=data.num_classes, in_channels=channels, image_size=size
    ).to(device)
    smaller = min(len(data.train.labels), len(data.validation.labels))
    if args.batch_size > smaller:
        raise ValueError(f"--batch-size {args.batch_size} exceeds the {smaller} images of a split")
    steps_per_epoch = len(data.train.labels) // args.batch_size
    steps = steps_per_epoch * args.num_epoch
    model = atf.functionalize(module, F.cross_entropy)
    check_fit(args, model, data)
    return Job(
        data=data,
        module=module,
        model=model,
        device=device,
        steps_per_epoch=steps_per_epoch,
        steps=min(steps, args.max_steps or steps),
    )


def check_fit(args: argparse.Namespace, model: atf.Functional, data: ImageData) -> None:
    """Raise ValueError unless the network takes such batches: a pass over shapes, no numbers."""
    shape = (args.batch_size, *data.train.images.shape[1:])
    params, buffers = (
        {name: leaf.to("meta") for name, leaf in part.items()} for part in (model[1], model[2])
    )
    batch = torch.empty(shape, device="meta"), torch.zeros(shape[:1], device="meta").long()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.loss_fn(params, buffers, batch)
    except (RuntimeError, ValueError) as error:
        size = " x ".join(map(str, shape[1:]))
        raise ValueError(
            f"--network {args.network} does not take batches of {shape[0]} images of {size} "
            f"({str(error).splitlines()[0]})"
        ) from None


def optimizer_of(args: argparse.Namespace) -> atf.Optimizer:
    """The optimizer that the options name, clipped if they say so."""
    if args.optimizer == "sgd":
        optimizer = atf.sgd(lr=args.lr, momentum=args.momentum, weight_decay=args.wd)
    else:
        adam = atf.adam if args.optimizer == "adam" else atf.adamw
        optimizer = adam(lr=args.lr, eps=args.eps, weight_decay=args.wd)
    return atf.clip_grads(optimizer, args.grad_clipping) if args.grad_clipping else optimizer


def fit(
    args: argparse.Namespace, job: Job, plan: Plan, state: atf.TunerState, progress: Progress
) -> tuple[atf.TunerState, Progress]:
    """Train up to ``job.steps``; at each epoch's end validate, log, keep the best, checkpoint."""
    step = plan.tuner.step
    step = torch.compile(step, fullgraph=True) if compiles(args, job.steps) else step
    folder, notes = Path(args.out), {"optimizer": args.optimizer, "network": args.network}
    batches, rows = batches_of(args, job, plan, progress.step), []
    epoch = outputs.step_lines_from(folder, progress.step - progress.step % job.steps_per_epoch)
    # No bar where stderr is a file: there it would be one line of a thousand states.
    with tqdm(total=job.steps, initial=progress.step, unit="step", disable=None) as bar:
        for t in range(progress.step, job.steps):
            state, info = step(state, *next(batches))
            rows.append(outputs.Row(t, info, state.hparams))
            progress = progress._replace(step=t + 1)
            bar.update()
            if t % 20 == 0 and not bar.disable:  # the only host sync between checkpoints
                bar.set_postfix(loss=f"{float(info.loss):.4f}", lr=f"{_lr(args, state):.2e}")
            ended, last = (t + 1) % job.steps_per_epoch == 0, t + 1 == job.steps
            if not (ended or last or (t + 1) % args.checkpoint_every == 0):
                continue
            lines, rows = outputs.step_lines(rows), []
            outputs.append(folder, lines)
            epoch += lines
            if ended:
                # The model is saved before the checkpoint that knows of it: a run killed between
                # them comes back to the epoch before and saves the same model again.
                progress, epoch = end_of_epoch(args, job, state, progress, epoch), []
            outputs.save_checkpoint(folder, state, progress, notes)
    if progress.best_step == 0:
        # Stopped before its first epoch's end. The checkpoint knows nothing of this validation, so
        # that a run that goes on from here is one that was never stopped.
        progress = end_of_epoch(args, job, state, progress, epoch)
    return state, progress


def compiles(args: argparse.Namespace, steps: int) -> bool:
    """Whether so many steps are compiled: as ``--compile`` says, else if it pays off."""
    return steps >= COMPILE_FROM_STEPS if args.compile is None else args.compile


def end_of_epoch(
    args: argparse.Namespace,
    job: Job,
    state: atf.TunerState,
    progress: Progress,
    lines: list[dict[str, Any]],
) -> Progress:
    """Validate, log and print the epoch, save the model if it is the best so far."""
    accuracy, loss = evaluate(job, state, job.data.validation)
    epoch = {
        "epoch": math.ceil(progress.step / job.steps_per_epoch),
        "steps": progress.step,
        "train_loss": sum(line["loss"] for line in lines) / len(lines),
        "val_accuracy": accuracy,
        "val_loss": loss,
        "null_steps": sum(not line["accepted"] for line in lines),
        "lr": _lr(args, state),
    }
    outputs.append(Path(args.out), [epoch])
    skipped = f"  null steps {epoch['null_steps']}" if epoch["null_steps"] else ""
    tqdm.write(
        f"epoch {epoch['epoch']:3d}  train loss {epoch['train_loss']:.4f}  "
        f"validation {100 * accuracy:.2f} %  lr {epoch['lr']:.3e}{skipped}"
    )
    if accuracy > progress.best_accuracy:
        outputs.save_model(model_path(args), state)
        progress = progress._replace(best_accuracy=accuracy, best_step=progress.step)
    return progress


def finish(
    args: argparse.Namespace, job: Job, state: atf.TunerState, progress: Progress
) -> dict[str, Any]:
    """Test the best model, once; write summary and curves."""
    accuracy, loss = evaluate(job, outputs.load_model(model_path(args), state), job.data.test)
    summary = {
        "test_accuracy": accuracy,
        "test_loss": loss,
        "validation_accuracy": progress.best_accuracy,
        "best_step": progress.best_step,
        "steps": progress.step,
        "hparams": outputs.numbers(state.hparams),
        "torch": torch.__version__,
    }
    outputs.write(Path(args.out) / "summary.json", json.dumps(summary, indent=1) + "\n")
    draw(Path(args.out))
    print(
        f"test accuracy {100 * accuracy:.2f} % with the best model by validation "
        f"({100 * progress.best_accuracy:.2f} % at step {progress.best_step}); all is in {args.out}"
    )
    return summary


def _lr(args: argparse.Namespace, state: atf.TunerState) -> float:
    return float(state.hparams.get("lr", args.lr))


def evaluate(job: Job, state: Any, split: Split) -> tuple[float, float]:
    """(accuracy, mean loss) on a whole split, running statistics and no dropout."""
    module = job.module.eval()
    atf.write_back(module, state)
    correct, total = torch.zeros((), device=job.device), torch.zeros((), device=job.device)
    with torch.no_grad():
        for images, labels in image_data.in_order(split, 500):
            logits = module(image_data.normalize(images, job.data.mean, job.data.std))
            correct += (logits.argmax(1) == labels).sum()
            total += F.cross_entropy(logits, labels, reduction="sum")
    size = len(split.labels)
    return float(correct) / size, float(total) / size


def batches_of(
    args: argparse.Namespace, job: Job, plan: Plan, start: int
) -> Iterator[tuple[Any, ...]]:
    """What ``step`` takes beside the state, from step ``start`` on: (batch, val_batch) or (batch,).

    A run that is not validated at each step does not pay for the batches of it.
    """
    size, seed = args.batch_size, args.seed
    batches = image_data.train_batches(job.data, size, seed=seed, start=start)
    if not plan.validated:
        return zip(batches)
    return zip(
        batches,
        image_data.validation_batches(job.data, size, seed=seed, start=start),
        strict=False,
    )


def model_path(args: argparse.Namespace) -> Path:
    return Path(args.model_loc) if args.model_loc else Path(args.out) / "model.pt"
