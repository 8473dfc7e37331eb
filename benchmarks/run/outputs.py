"""What a run leaves in its folder: config, a JSONL log, checkpoints, the best model, curves.

    config.json     the options
    log.jsonl       one line a step (loss, hyperparameters, hypergradients, their signal-to-noise
                    ratio), one an epoch; no clock
    checkpoint.pt   the whole state: continue with --resume
    model.pt        the best model by validation, a flat dict of tensors
    summary.json    the test result and where it came from: versions, machine, date, options
    curves.png      loss, accuracy, hyperparameters, signal-to-noise of their hypergradients
    search.*        what --hyper-lr auto tried, as numbers and as a picture
    sample.txt      what a language model goes on with
    events.*        the same for TensorBoard, if asked for

Files are written beside their name and then moved there: a killed run leaves none half-written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import adatune_func as atf
from adatune_func import checkpoint
from adatune_func.trees import tree_leaves, tree_map, tree_paths
from benchmarks.run import ranks
from benchmarks.run.record import write

#: Options that say where and how to run, not what: a resumed run takes its own of the first two.
_NOT_KEPT = ("resume", "out")
_NOT_WHAT = (*_NOT_KEPT, "model_loc", "data_root", "device", "compile", "tensorboard",
             "checkpoint_every")  # fmt: skip


class Progress(NamedTuple):
    """How far a run is: steps taken, and the best score by validation with its step."""

    step: int
    best_accuracy: float
    best_loss: float
    best_step: int  # 0 before the first validation


START = Progress(0, -1.0, math.inf, 0)


class Row(NamedTuple):
    """A step's Info and the hyperparameters it leads to, on the device until they are written."""

    step: int
    tuned: bool  # or only trained: its outer loss is the training loss then
    info: atf.Info
    hparams: Any
    in_use: dict[str, Any]


def in_use(state: atf.TunerState) -> dict[str, Any]:
    """The lr that the next step takes, where that is not the one that is tuned."""
    try:
        return {"lr_in_use": atf.effective_lr(state)}
    except ValueError:  # its optimizer is not scheduled
        return {}


def check_places(folder: Path, model: Path) -> None:
    """Raise OSError unless a run may write to both, before anything is written."""
    _check_folder("--out", folder)
    _check_folder("--model-loc", model.parent)
    if model.is_dir():
        raise IsADirectoryError(f"--model-loc {model} is a folder, not a file")


def _check_folder(option: str, folder: Path) -> None:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"{option}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{option}: {there} is a folder that you cannot write to")


@ranks.first_only
def open_run(folder: Path, model: Path, args: argparse.Namespace) -> None:
    """Make the folders of a new run, with its config; what an earlier run left there goes."""
    for option, made in (("--out", folder), ("--model-loc", model.parent)):
        try:
            made.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{option}: cannot make {made}: {error.strerror}") from None
    for name in (
        "log.jsonl",
        "checkpoint.pt",
        "summary.json",
        "curves.png",
        "search.json",
        "search.png",
        "sample.txt",
    ):
        (folder / name).unlink(missing_ok=True)
    write_config(folder, args)


@ranks.first_only
def write_config(folder: Path, args: argparse.Namespace) -> None:
    """The options, so that ``--resume`` needs none."""
    kept = {name: value for name, value in vars(args).items() if name not in _NOT_KEPT}
    write(folder / "config.json", json.dumps(kept, indent=1) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """The options of the run in ``folder``."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} holds no run, there is no config.json") from None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged")
    return config


def what(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a run's numbers depend on."""
    return {name: value for name, value in config.items() if name not in _NOT_WHAT}


@ranks.first_only
def append(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Add lines to the log."""
    with open(folder / "log.jsonl", "a") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, steps and epochs in order."""
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def step_lines(rows: list[Row]) -> list[dict[str, Any]]:
    """The log lines of some steps, fetched from the device in one go."""
    if not rows:
        return []
    stacked = tree_map(lambda *leaves: torch.stack(leaves).cpu(), *[row[2:] for row in rows])
    return [
        _line(row.step, row.tuned, *tree_map(lambda leaf, i=i: leaf[i], stacked))
        for i, row in enumerate(rows)
    ]


def _line(
    step: int, tuned: bool, info: atf.Info, hparams: Any, lr_in_use: dict[str, Any]
) -> dict[str, Any]:
    return {
        "step": step,
        "tuned": tuned,
        "loss": float(info.loss),
        "val_loss": float(info.val_loss),
        "mu": float(info.mu),
        "accepted": bool(info.accepted),
        "z_reset": any(numbers(info.z_reset).values()),
        "bounded": any(share < 1 for share in numbers(info.kept).values()),
        **numbers(hparams),
        **numbers(lr_in_use),
        **{f"hypergrad_{name}": value for name, value in numbers(info.hypergrads).items()},
        **{f"cosine_{name}": value for name, value in numbers(info.cosine).items()},
        **{f"snr_{name}": value for name, value in numbers(info.snr).items()},
    }


def numbers(hparams: Any) -> dict[str, float]:
    """Hyperparameters by name, ``lr`` or ``lr.prefix``, as floats."""
    names = (".".join(map(str, path)) for path in tree_paths(hparams))
    return {name: float(leaf) for name, leaf in zip(names, tree_leaves(hparams), strict=True)}


@ranks.first_only
def save_checkpoint(
    folder: Path, state: atf.TunerState, progress: Progress, notes: dict[str, str]
) -> None:
    """Everything that the rest of the run depends on, and how long the log is by now."""
    log = folder / "log.jsonl"
    checkpoint.save(
        {"tuner": state, "random": _generators()},
        folder / "checkpoint.pt",
        {**progress._asdict(), "log_bytes": log.stat().st_size, **notes, **numbers(state.hparams)},
    )


def restore(folder: Path, like: atf.TunerState) -> tuple[atf.TunerState, Progress]:
    """State and progress at the checkpoint; the log is cut back to it, generators are set."""
    path, log = folder / "checkpoint.pt", folder / "log.jsonl"
    if not path.exists():
        if ranks.is_first():
            log.unlink(missing_ok=True)  # what came before the first checkpoint comes again
        return like, START
    saved = checkpoint.load(path, {"tuner": like, "random": _generators()})
    notes = checkpoint.notes(path)
    if lacking := [field for field in Progress._fields if field not in notes]:
        raise ValueError(f"--resume: {path} lacks {', '.join(lacking)}: it is of an older version")
    if not log.exists() or log.stat().st_size < notes["log_bytes"]:
        raise ValueError(f"--resume: {log} is shorter than it was at the checkpoint")
    ranks.wait_for_all()  # all have looked at the log
    if ranks.is_first():
        os.truncate(log, notes["log_bytes"])
    torch.set_rng_state(saved["random"]["cpu"])
    if "cuda" in saved["random"]:
        torch.cuda.set_rng_state(saved["random"]["cuda"].cpu())
    return saved["tuner"], Progress(*(notes[field] for field in Progress._fields))


def step_lines_from(folder: Path, step: int) -> list[dict[str, Any]]:
    """The log's lines on steps from number ``step`` on."""
    return [line for line in read_log(folder) if line.get("step", -1) >= step]


@ranks.first_only
def save_model(path: Path, state: atf.TunerState) -> None:
    """Parameters and buffers by name; ``torch.load(path, weights_only=True)`` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    torch.save({**state.params, **state.buffers}, part)
    os.replace(part, path)


def load_model(path: Path, like: atf.TunerState) -> atf.TunerState:
    """``like`` with the parameters and buffers saved at ``path``."""
    try:
        values: dict[str, Tensor] = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"the best model so far is not at {path}") from None
    return like._replace(
        params={name: values[name] for name in like.params},
        buffers={name: values[name] for name in like.buffers},
    )


def _generators() -> dict[str, Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}
