"""The loop that the scripts share: training, validation, best model, resume.

A script adds its own options, builds a tuner and calls :func:`main`. Batch t depends on (seed, t)
alone, so a run is its configuration, and a checkpoint needs no more than the state and t.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

import adatune_func as atf
from adatune_func import replicas
from benchmarks.run import command_line, events, jobs, outputs, progress, ranks, record
from benchmarks.run.curves import draw, draw_search
from benchmarks.run.jobs import Job, Score
from benchmarks.run.outputs import START, Progress
from benchmarks.run.patience import announced


class Plan(NamedTuple):
    """How a run trains: a tuner, what it tunes, whether its step takes a validation batch."""

    tuner: atf.Tuner
    hparams: dict[str, float]
    validated: bool = True
    tried: Sequence[dict[str, float]] = ()  # the runs of a search for its constants
    model: Callable[[atf.TunerState], atf.TunerState] = lambda state: state  # what is used of it
    due: Callable[[int], bool] = lambda t: True  # which steps tune


Build = Callable[[argparse.Namespace, Job], Plan]
Prepare = Callable[[argparse.Namespace], Job]


def main(
    parser: argparse.ArgumentParser,
    build: Build,
    argv: Sequence[str] | None,
    adatune: dict[str, Any] | None = None,
    prepare: Prepare = jobs.prepare,
) -> int:
    """Parse, train, return 0; a mistake of the user is one line on stderr and exit code 2."""
    parser.print_usage = lambda file=None: None  # errors in one line; --help has the rest
    args = parser.parse_args(argv)
    try:
        if adatune and args.adatune_defaults:
            parser.set_defaults(**adatune)
        if args.resume:
            if args.out:
                raise ValueError("--resume DIR continues in DIR: leave out --out")
            parser.set_defaults(**_config_of(args.resume, parser.prog))
        args = parser.parse_args(argv)
        args.script = parser.prog
        args.out = (
            args.resume or args.out or str(Path("runs") / command_line.run_name(parser, args))
        )
        ranks.start(args.device)
        with ranks.together():
            ranks.check_alike(vars(args))
            run(args, build, prepare)
    except (ValueError, OSError, ImportError) as error:
        parser.error(" ".join(str(error).split()))
    except ranks.LostError as error:
        print(f"{error}; continue with --resume {args.out}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; continue with --resume {args.out}", file=sys.stderr)
        return 130
    return 0


def _config_of(folder: str, script: str) -> dict[str, Any]:
    config = outputs.read_config(Path(folder))
    if config.get("script") != script:
        raise ValueError(f"{folder} holds a run of {config.get('script')}, not of {script}")
    return config


def run(args: argparse.Namespace, build: Build, prepare: Prepare = jobs.prepare) -> dict[str, Any]:
    """Train as ``args`` say and return what summary.json holds."""
    folder, model = Path(args.out), model_path(args)
    outputs.check_places(folder, model)
    write_events = events.recorder() if args.tensorboard and ranks.is_first() else None
    ranks.part_of(args.batch_size)
    job = ranks.after_the_first(lambda: prepare(args))
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
    ranks.seed_others(args.seed, progress.step)
    if ranks.is_first() and ranks.count() > 1:
        part = ranks.part_of(args.batch_size)
        print(f"{ranks.count()} ranks, {part} samples of a batch each, with dropout of their own")
    with ranks.stoppable() as asked:
        state, progress = fit(args, job, plan, state, progress, asked)
    summary = finish(args, job, state, progress)
    if write_events is not None:
        write_events(folder, outputs.read_log(folder))
    return summary


def fit(
    args: argparse.Namespace,
    job: Job,
    plan: Plan,
    state: atf.TunerState,
    done: Progress,
    asked: Callable[[], bool] = lambda: False,
) -> tuple[atf.TunerState, Progress]:
    """Train up to ``job.steps``; at each epoch's end validate, log, keep the best, checkpoint.

    Where ``asked`` to stop it saves and raises KeyboardInterrupt.
    """
    replicas.check(state)
    wrap = announced if command_line.compiles(args, job.steps) else lambda fn: fn
    step = atf.windowed(plan.tuner, plan.due, wrap)
    folder, notes = Path(args.out), {"optimizer": args.optimizer, "network": args.network}
    batches, rows = batches_of(args, job, plan, done.step), []
    epoch = outputs.step_lines_from(folder, done.step - done.step % job.steps_per_epoch)
    began, first = time.monotonic(), done.step
    with progress.bar(job.steps, first, not ranks.is_first()) as bar:
        for t in range(first, job.steps):
            state, info = step(t, state, *replicas.part(next(batches)))
            rows.append(outputs.Row(t, plan.due(t), info, state.hparams, outputs.in_use(state)))
            done = done._replace(step=t + 1)
            bar.update()
            if t % progress.EVERY == 0 and not bar.disable:  # the only sync between checkpoints
                bar.set_postfix(progress.state_of_it(rows[-progress.EVERY :], _lr(args, state)))
            ended, last = (t + 1) % job.steps_per_epoch == 0, t + 1 == job.steps
            stopping = asked()
            if not (ended or last or stopping or (t + 1) % args.checkpoint_every == 0):
                continue
            lines, rows = outputs.step_lines(rows), []
            outputs.append(folder, lines)
            epoch += lines
            if ended:
                # The model is saved before the checkpoint that knows of it: a run killed between
                # them comes back to the epoch before and saves the same model again.
                left = progress.time_left(began, t + 1 - first, job.steps - t - 1)
                done, epoch = end_of_epoch(args, job, plan, state, done, epoch, left), []
            outputs.save_checkpoint(folder, state, done, notes)
            if stopping:
                raise KeyboardInterrupt
            replicas.check(state)
            ranks.seed_others(args.seed, t + 1)
    if done.best_step == 0:
        # Stopped before its first epoch's end. The checkpoint knows nothing of this validation, so
        # that a run that goes on from here is one that was never stopped.
        done = end_of_epoch(args, job, plan, state, done, epoch)
    return state, done


def end_of_epoch(
    args: argparse.Namespace,
    job: Job,
    plan: Plan,
    state: atf.TunerState,
    progress: Progress,
    lines: list[dict[str, Any]],
    left: str = "",
) -> Progress:
    """Validate, log and print the epoch, save the model if it is the best so far."""
    model = plan.model(state)
    score = job.kind.evaluate(job, model, "validation")
    epoch = {
        "epoch": math.ceil(progress.step / job.steps_per_epoch),
        "steps": progress.step,
        "train_loss": sum(line["loss"] for line in lines) / len(lines),
        "val_accuracy": score.accuracy,
        "val_loss": score.loss,
        "null_steps": sum(not line["accepted"] for line in lines),
        "lr": _lr(args, state),
    }
    outputs.append(Path(args.out), [epoch])
    skipped = f"  null steps {epoch['null_steps']}" if epoch["null_steps"] else ""
    if resets := sum(line["z_reset"] for line in lines):
        skipped += f"  Z reset {resets} times"
    if bounded := sum(line["bounded"] for line in lines):
        skipped += f"  Z bounded {bounded} times"
    skipped += f"  {left}" if left else ""
    _say(
        f"epoch {epoch['epoch']:3d}  train loss {epoch['train_loss']:.4f}  "
        f"validation {job.kind.says(score)}  lr {epoch['lr']:.3e}{skipped}"
    )
    if progress.best_step == 0 or job.kind.better(score, _best(progress)):
        outputs.save_model(model_path(args), model)
        progress = Progress(progress.step, *score, best_step=progress.step)
    return progress


def finish(
    args: argparse.Namespace, job: Job, state: atf.TunerState, progress: Progress
) -> dict[str, Any]:
    """Test the best model, once; write summary and curves."""
    ranks.wait_for_all()  # the first has written it
    score = job.kind.evaluate(job, outputs.load_model(model_path(args), state), "test")
    summary = {
        "test_accuracy": score.accuracy,
        "test_loss": score.loss,
        "validation_accuracy": progress.best_accuracy,
        "validation_loss": progress.best_loss,
        "best_step": progress.best_step,
        "steps": progress.step,
        "hparams": outputs.numbers(state.hparams),
        "provenance": {**record.provenance(vars(args), job.device.type), "ranks": ranks.count()},
    }
    if not ranks.is_first():
        return summary
    outputs.write(Path(args.out) / "summary.json", json.dumps(summary, indent=1) + "\n")
    draw(Path(args.out))
    job.kind.leaves(job, args, Path(args.out))
    print(
        f"test {job.kind.says(score)} with the best model by validation "
        f"({job.kind.says(_best(progress))} at step {progress.best_step}); all is in {args.out}"
    )
    return summary


def _best(progress: Progress) -> Score:
    return Score(progress.best_accuracy, progress.best_loss)


@ranks.first_only
def _say(words: str) -> None:
    tqdm.write(words)


def _lr(args: argparse.Namespace, state: atf.TunerState) -> float:
    return float(outputs.in_use(state).get("lr_in_use", state.hparams.get("lr", args.lr)))


def batches_of(
    args: argparse.Namespace, job: Job, plan: Plan, start: int
) -> Iterator[tuple[Any, ...]]:
    """What ``step`` takes beside the state, from step ``start`` on: (batch, val_batch) or (batch,).

    A run that is not validated at each step does not pay for the batches of it.
    """
    parts = ("train", "validation") if plan.validated else ("train",)
    return zip(*(job.kind.batches(job, args, part, start) for part in parts), strict=False)


def model_path(args: argparse.Namespace) -> Path:
    return Path(args.model_loc) if args.model_loc else Path(args.out) / "model.pt"
