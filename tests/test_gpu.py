"""The script for a machine with a GPU, tried on this one at toy size."""

from __future__ import annotations

import json
import runpy
import sys

import pytest
import torch

import adatune_func as atf
from benchmarks import gpu


@pytest.fixture
def in_this_process(monkeypatch):
    """Commands run here and are not compiled: other tests try the compiler and the processes."""

    def run(command, out, seconds):
        first, *rest = command.arguments
        monkeypatch.setattr(sys, "argv", [first, *rest[1:]] if first == "-m" else [first, *rest])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "compile", lambda fn, **_: fn)
            patch.setattr(atf, "jit", lambda fn, **_: fn)
            run_it = runpy.run_module if first == "-m" else runpy.run_path
            try:
                run_it(rest[0] if first == "-m" else first, run_name="__main__")
            except SystemExit as end:
                assert not end.code
        return {"part": command.part, "name": command.name, "ended": "done", "seconds": 0.0}

    monkeypatch.chdir(gpu.ROOT)
    monkeypatch.setattr(gpu, "run", run)


def test_every_part_leaves_its_results(in_this_process, tmp_path):
    toy = ["--toy", "--device", "cpu", "--out", str(tmp_path)]
    assert gpu.main([*toy, "--parts", "speed", "vmapped", "replicas", "vgg"]) == 0
    (row,) = json.loads((tmp_path / "population.json").read_text())["rows"]
    assert row["members"] == 2 and row["vmap_ms"] > 0
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"torch.optim compiled", "hd"}
    (row,) = json.loads((tmp_path / "replicas.json").read_text())["rows"]
    assert row["ranks"] == 1 and 0 < row["in_collectives"] < 1
    for name in ("vgg-tuned", "vgg-cosine"):
        assert json.loads((tmp_path / name / "summary.json").read_text())["steps"] == 2
    ended = json.loads((tmp_path / "parts.json").read_text())
    assert [row["part"] for row in ended] == ["speed", "vmapped", "replicas", "vgg", "vgg"]
    # what is there already goes on
    args = gpu.parser().parse_args(toy)
    args.out = tmp_path
    assert all("--resume" in command.arguments for command in gpu.vgg(args))


def test_the_valuable_comes_first_and_every_option_is_known():
    args = gpu.parser().parse_args(["--out", "gpu"])
    commands = [command for part in gpu.PARTS.values() for command in part(args)]
    assert [command.part for command in commands][:2] == ["tests", "speed"]
    from benchmarks.studies import speed

    for command in gpu.speed(args):
        speed.parsed(command.arguments[2:])  # unknown methods and flags would raise


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("print('fine')", "done"),
        ("raise SystemExit(3)", "failed, exit 3: see speed-x.log"),
        ("import time; time.sleep(60)", "cut after 1 s"),
    ],
)
def test_how_a_command_ends_is_said(code, ended, tmp_path):
    assert gpu.run(gpu.Command("speed", "x", ["-c", code]), tmp_path, 1.0)["ended"] == ended
