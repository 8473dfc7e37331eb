"""A run that is killed and resumed is the run that was never killed, bit for bit."""

from __future__ import annotations

import functools
import json
import multiprocessing
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import adatune_func as atf
from adatune_func import networks
from benchmarks import baselines, rtho
from benchmarks.run import outputs, record, training

STEPS = 10  # three epochs of digits at 299 images a step, less two steps


class KilledError(BaseException):
    """As kill -9: nothing may catch it."""


def small(num_classes: int, in_channels: int) -> nn.Module:
    """BatchNorm, whose buffers count, and dropout, which draws from torch's generator."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 3, 5, stride=3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(3 * 16, num_classes),
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "small", small)
    monkeypatch.setattr(training, "draw", lambda folder: None)


SCRIPTS = {
    "marthe_adam": (rtho, ["--no-recipe", "--optimizer", "adam", "--lr", "0.01"]),
    "adaptive_sgd": (rtho, ["--mu", "-1", "--hyper-lr", "1e-4", "--alpha", "1e-6"]),
    "recipe": (rtho, ["--num-epoch", "3", "--lr", "0.01"]),
    "hd": (baselines, ["--lr-scheduler", "hd"]),
    "cyclic": (baselines, ["--lr-scheduler", "cyclic", "--t-0", "1"]),
}


def train(script: str, out: Path, *options: str) -> None:
    module, arguments = SCRIPTS[script]
    where = ["--resume", str(out)] if "resume" in options else ["--out", str(out)]
    own = [option for option in options if option != "resume"]
    common = ["--network", "small", "--batch-size", "299", "--max-steps", str(STEPS)]
    common += ["--checkpoint-every", "3", "--no-compile", *arguments]
    assert module.main([*([] if "resume" in options else common), *where, *own]) == 0


def left(folder: Path) -> dict[str, Any]:
    """All that a run leaves but the date, as bytes: what is not equal here is not equal."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    model = torch.load(folder / "model.pt", weights_only=True)
    summary = json.loads((folder / "summary.json").read_text())
    del summary["provenance"]["date"]
    return {
        "state": {name: (t.dtype, t.numpy().tobytes()) for name, t in state["tensors"].items()},
        "notes": state["notes"],
        "model": {name: t.numpy().tobytes() for name, t in model.items()},
        "log": (folder / "log.jsonl").read_bytes(),
        "summary": json.dumps(summary),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What uninterrupted runs leave, by script, made when first asked for."""
    known: dict[str, dict[str, Any]] = {}

    def of(script: str) -> dict[str, Any]:
        if script not in known:
            folder = tmp_path_factory.mktemp(script)
            train(script, folder)
            known[script] = left(folder)
        return known[script]

    return of


def kill_at_step(monkeypatch, step: int) -> None:
    batches_of = training.batches_of

    def stopping(args, job, plan, start):
        for t, batch in enumerate(batches_of(args, job, plan, start), start):
            if t == step:
                raise KilledError
            yield batch

    monkeypatch.setattr(training, "batches_of", stopping)


def kill_around(monkeypatch, name: str, call: int, before: bool) -> None:
    """Die before or after the ``call``-th call of a function of outputs."""
    original, calls = getattr(outputs, name), iter(range(10**6))

    def stopping(*args):
        fatal = next(calls) == call
        if fatal and before:
            raise KilledError
        result = original(*args)
        if fatal:
            raise KilledError
        return result

    monkeypatch.setattr(outputs, name, stopping)


def killed_then_resumed(script: str, folder: Path, kill: Any) -> dict[str, Any]:
    with pytest.raises(KilledError), pytest.MonkeyPatch.context() as patch:
        kill(patch)
        train(script, folder)
    torch.manual_seed(random.randrange(10**6))  # the new process knows nothing of the old one
    train(script, folder, "resume")
    return left(folder)


def test_the_run_says_something(whole):
    log = [json.loads(line) for line in whole("marthe_adam")["log"].splitlines()]
    assert [line["step"] for line in log if "step" in line] == list(range(STEPS))
    assert [line["steps"] for line in log if "epoch" in line] == [4, 8]
    assert len({line["lr"] for line in log if "step" in line}) > 3
    assert any(name.startswith("tuner/z/params") for name in whole("marthe_adam")["state"])


@pytest.mark.parametrize("step", [0, 1, 5, 8])
@pytest.mark.parametrize("script", ["marthe_adam"])
def test_killed_at_a_step(tmp_path, whole, script, step):
    got = killed_then_resumed(script, tmp_path, lambda patch: kill_at_step(patch, step))
    assert got == whole(script)


@pytest.fixture
def short_windows(monkeypatch):
    """Steps 0 to 2 tune, then 5, 6, 9: checkpoints fall into windows and between them."""
    original = atf.recipe
    short = functools.partial(original, due=atf.windows(3, 2, 4))
    monkeypatch.setattr(atf, "recipe", short)


@pytest.mark.parametrize("step", [2, 4, 6, 8])
def test_killed_in_a_window_and_between_two(tmp_path, short_windows, whole, step):
    got = killed_then_resumed("recipe", tmp_path, lambda patch: kill_at_step(patch, step))
    assert got == whole("recipe")
    lines = [json.loads(line) for line in got["log"].splitlines()]
    steps = [line for line in lines if "step" in line]
    assert [line["step"] for line in steps if line["tuned"]] == [0, 1, 2, 5, 6, 9]
    factors = [round(line["lr_in_use"] / line["lr"], 4) for line in steps]
    assert factors == [1.0] * 9 + [0.8333]  # twelve steps planned: lr falls over the last 2.4


@pytest.mark.parametrize("script", ["adaptive_sgd", "hd", "cyclic"])
def test_every_script_resumes(tmp_path, whole, script):
    step = random.randrange(3, STEPS)
    got = killed_then_resumed(script, tmp_path, lambda patch: kill_at_step(patch, step))
    assert got == whole(script), f"killed at step {step}"


@pytest.mark.parametrize(
    ("name", "call", "before"),
    [("append", 1, True), ("append", 2, False), ("save_model", 1, True), ("save_model", 1, False),
     ("save_checkpoint", 0, True), ("save_checkpoint", 3, False)],
)  # fmt: skip
def test_killed_between_the_files(tmp_path, whole, name, call, before):
    """Between log, model and checkpoint: none may know of what another does not."""
    got = killed_then_resumed(
        "marthe_adam", tmp_path, lambda patch: kill_around(patch, name, call, before)
    )
    assert got == whole("marthe_adam")


@pytest.mark.parametrize("steps", [2, 4, 7])
def test_stopped_by_max_steps_and_continued(tmp_path, whole, steps):
    train("marthe_adam", tmp_path, "--max-steps", str(steps))
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == steps
    train("marthe_adam", tmp_path, "resume", "--max-steps", str(STEPS))
    assert left(tmp_path) == whole("marthe_adam")


def test_a_line_cut_short_goes(tmp_path, whole):
    with pytest.raises(KilledError), pytest.MonkeyPatch.context() as patch:
        kill_at_step(patch, 7)
        train("marthe_adam", tmp_path)
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 7, "lo')
    train("marthe_adam", tmp_path, "resume")
    assert left(tmp_path) == whole("marthe_adam")


def test_a_finished_run_resumed_stays_as_it_is(tmp_path, whole):
    train("cyclic", tmp_path)
    train("cyclic", tmp_path, "resume")
    assert left(tmp_path) == whole("cyclic")


KILLS = 20
RUN = ["--network", "mlp", "--optimizer", "adam", "--max-steps", "100", "--batch-size", "64"]
RUN += ["--checkpoint-every", "4", "--no-compile", "--seed", "3"]


def started(*arguments: str) -> Any:
    """rtho.py in a process of its own, from one that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.rtho"])
    process = context.Process(target=rtho.main, args=(list(arguments),))
    process.start()
    return process


def finished(*arguments: str) -> float:
    began, process = time.perf_counter(), started(*arguments)
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - began


@pytest.mark.acceptance
def test_killed_by_the_system_at_20_random_moments(tmp_path):
    """One run, kill -9 at 20 random moments of its life, resumed each time."""
    seconds = finished(*RUN, "--out", str(tmp_path / "whole"))
    want = left(tmp_path / "whole")
    rng, folder, kills = random.Random(0), tmp_path / "killed", []
    fresh = [*RUN, "--out", str(folder)]
    while len(kills) < KILLS:
        resumable = (folder / "config.json").exists()
        process = started("--resume", str(folder)) if resumable else started(*fresh)
        before = _size(folder)
        while process.is_alive() and _size(folder) == before:
            time.sleep(0.002)  # until it trains: the first moments of its life are all alike
        process.join(rng.uniform(0, seconds / KILLS))
        process.kill()
        process.join()
        if process.exitcode == 0:  # it was quicker: begin again
            shutil.rmtree(folder)
        else:
            assert process.exitcode == -signal.SIGKILL
            kills.append(_steps(folder))
    finished("--resume", str(folder))
    got = left(folder)
    equal = {name: got[name] == part for name, part in want.items()}
    result = {
        **record.provenance({"run": " ".join(RUN)}),
        "logged_steps_when_killed": kills,
        "equal_bit_for_bit": equal,
    }
    path = record.RESULTS / "resume.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    assert all(equal.values()), equal


def _size(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.stat().st_mtime_ns if log.exists() else 0


def _steps(folder: Path) -> int:
    log = folder / "log.jsonl"
    return sum(b'"step"' in line for line in log.read_bytes().splitlines()) if log.exists() else 0
