"""The main job: it learns, and leaves what it promises. The whole runs are acceptance tests."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from benchmarks import rtho
from benchmarks.run import outputs, record


def test_a_short_run_leaves_its_folder(tmp_path, capsys):
    out = tmp_path / "deep" / "run"
    assert rtho.main(["--max-steps", "25", "--no-compile", "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("config.json", "log.jsonl", "checkpoint.pt", "model.pt", "summary.json", "curves.png")
    }
    lines = outputs.read_log(out)
    steps = [line for line in lines if "step" in line]
    assert [line["step"] for line in steps] == list(range(25))
    assert all({"lr", "hypergrad_lr", "loss"} <= line.keys() for line in steps)
    assert steps[0]["lr"] != steps[-1]["lr"]
    assert not any("time" in key for line in lines for key in line)  # so that runs compare equal
    model = torch.load(out / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in model.values())
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.acceptance
@pytest.mark.parametrize(("dataset", "epochs", "goal"), [("digits", 20, 0.97), ("mnist", 3, 0.985)])
def test_the_main_job_reaches_its_accuracy(dataset, epochs, goal, tmp_path):
    root = os.environ.get("DATA_ROOT", "data")
    if dataset == "mnist" and not (Path(root) / "MNIST").is_dir():
        pytest.skip(f"no MNIST under {root!r}: set DATA_ROOT, or let rtho.py download it there")
    began, out = time.monotonic(), tmp_path / "run"
    options = ["--dataset", dataset, "--num-epoch", str(epochs), "--data-root", root]
    assert rtho.main([*options, "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    row = {"dataset": dataset, **summary, "seconds": round(time.monotonic() - began, 1)}
    run = record.provenance(json.loads((out / "config.json").read_text()))
    record.merge(record.RESULTS / "main_job.json", [row], ["dataset"], run)
    assert summary["test_accuracy"] >= goal
