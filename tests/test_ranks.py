"""Scripts under torchrun: one run, whatever the number of ranks, and one that outlives them."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import baselines, rtho
from benchmarks.run import ranks
from tests.ranks import script_on_ranks

RUN = ["--network", "mlp", "--batch-size", "96", "--no-compile", "--checkpoint-every", "4"]
SCRIPTS = {"rtho": rtho, "baselines": baselines}


def train(count: int, folder: Path, *options: str, script: str = "rtho") -> str:
    """Run to the end on so many ranks; what they say, the first rank's words first."""
    there = (folder / "config.json").exists()
    own = ["--resume", str(folder), *options] if there else [*RUN, "--out", str(folder), *options]
    processes = script_on_ranks(SCRIPTS[script].main, [own] * count, folder.parent / "said")
    for process in processes:
        process.join()
    said = [(folder.parent / "said" / str(rank)).read_text() for rank in range(count)]
    assert [process.exitcode for process in processes] == [0] * count, said
    assert not any(said[1:])  # only the first rank has something to say
    return said[0]


def left(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The state and the log that a run leaves."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["tensors"]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {name: leaf for name, leaf in state.items() if name.startswith("tuner")}, log


def assert_one_run(folder: Path, other: Path) -> None:
    """Equal to the rounding of float32, step by step."""
    (state, log), (want, whole) = left(folder), left(other)
    for name, leaf in want.items():
        torch.testing.assert_close(state[name], leaf, rtol=2e-4, atol=2e-5, msg=name)
    assert [line.keys() for line in log] == [line.keys() for line in whole]
    for line, wanted in zip(log, whole, strict=True):
        assert line == pytest.approx(wanted, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_on_two_ranks_and_on_one_again(tmp_path, script):
    said = train(2, tmp_path / "two", "--max-steps", "4", script=script)
    assert "2 ranks, 48 samples of a batch each" in said
    train(1, tmp_path / "two", "--max-steps", "6", script=script)
    train(1, tmp_path / "one", "--max-steps", "6", script=script)
    assert_one_run(tmp_path / "two", tmp_path / "one")
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {path.name for path in (tmp_path / "one").iterdir()}


def test_options_that_differ_are_named(tmp_path):
    options = [*RUN, "--out", str(tmp_path / "run")]
    processes = script_on_ranks(
        rtho.main, [options, [*options, "--lr", "0.5"], options], tmp_path / "said"
    )
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [2, 2, 2]
    said = [(tmp_path / "said" / str(rank)).read_text() for rank in range(3)]
    words = "error: --lr is 0.001 on rank 0 and 0.5 on rank 1: start all ranks with the same"
    assert words in said[0] and said[0].count("\n") == 1 and not said[1] and not said[2]
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_split(monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 3)
    assert ranks.part_of(300) == 100
    with pytest.raises(ValueError, match=r"--batch-size 64 .* does not split into 3 equal parts"):
        ranks.part_of(64)


def test_dropout_differs_by_rank_and_step(monkeypatch):
    first = torch.get_rng_state()
    ranks.seed_others(42, 0)
    assert torch.equal(torch.get_rng_state(), first)  # rank 0 draws as one process does
    draws = set()
    for rank in (1, 2):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        for step in (0, 4):
            ranks.seed_others(42, step)
            draws.add(float(torch.rand(())))
    assert len(draws) == 4
    torch.set_rng_state(first)


@pytest.mark.acceptance
def test_from_four_ranks_to_two_to_one_and_back(tmp_path):
    for steps, count in zip(("4", "8", "10", "14", "20"), (4, 2, 1, 2, 4), strict=True):
        train(count, tmp_path / "run", "--max-steps", steps)
    train(1, tmp_path / "one", "--max-steps", "20")
    assert_one_run(tmp_path / "run", tmp_path / "one")


def wait_for_steps(folder: Path, more: int, processes: list[Any]) -> None:
    """Until the log has so many more lines."""
    log = folder / "log.jsonl"
    before = log.read_bytes().count(b"\n") if log.exists() else 0
    while all(process.is_alive() for process in processes):
        if log.exists() and log.read_bytes().count(b"\n") >= before + more:
            return
        time.sleep(0.01)


def started(count: int, folder: Path, steps: int) -> list[Any]:
    there = (folder / "config.json").exists()
    own = ["--resume", str(folder)] if there else [*RUN, "--out", str(folder)]
    own += ["--max-steps", str(steps)]
    return script_on_ranks(rtho.main, [own] * count, folder.parent / "said")


@pytest.mark.acceptance
def test_a_random_rank_killed_ten_times(tmp_path):
    """The others say which and end within a minute; resumed, it is the run that was never killed.

    Bit for bit, the same number of ranks throughout.
    """
    draw, folder, count, steps = random.Random(0), tmp_path / "run", 3, 300
    waits = []
    for _ in range(10):
        processes = started(count, folder, steps)
        wait_for_steps(folder, 4, processes)
        time.sleep(draw.uniform(0, 0.1))
        dead = draw.randrange(count)
        processes[dead].kill()
        began = time.monotonic()
        for process in processes:
            process.join(60)
        waits.append(time.monotonic() - began)
        assert all(process.exitcode not in (None, 0) for process in processes)
        for rank in set(range(count)) - {dead}:
            said = (tmp_path / "said" / str(rank)).read_text()
            assert f"rank {rank} ends: rank {dead} is gone" in said or "ranks met" in said, said
    assert max(waits) < 60
    train(count, folder, "--max-steps", str(steps))
    train(count, tmp_path / "whole", "--max-steps", str(steps))
    (state, log), (want, whole) = left(folder), left(tmp_path / "whole")
    assert log == whole and all(torch.equal(state[name], leaf) for name, leaf in want.items())


@pytest.mark.parametrize(
    "count", [1, pytest.param(2, marks=pytest.mark.acceptance)], ids="{} ranks".format
)
def test_a_signal_saves_once_and_the_run_goes_on_as_if_it_had_not_come(tmp_path, count):
    folder, steps = tmp_path / "run", 24
    processes = started(count, folder, steps)
    wait_for_steps(folder, 5, processes)
    for process in processes[::-1]:
        os.kill(process.pid, signal.SIGTERM)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [130] * count
    said = [(tmp_path / "said" / str(rank)).read_text() for rank in range(count)]
    assert f"stopped; continue with --resume {folder}" in said[0] and not any(said[1:])
    log = [line for line in left(folder)[1] if "step" in line]
    notes = torch.load(folder / "checkpoint.pt", weights_only=True)["notes"]
    assert notes["step"] == len(log) < steps  # all that was trained is saved
    train(count, folder, "--max-steps", str(steps))
    train(count, tmp_path / "whole", "--max-steps", str(steps))
    assert left(folder)[1] == left(tmp_path / "whole")[1]
