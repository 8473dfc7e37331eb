"""``python -m adatune_func`` says what a bug report needs, and checks the installation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

import adatune_func as atf
from adatune_func import __main__ as report

ROOT = Path(__file__).parents[1]


def test_as_a_command():
    ended = subprocess.run(
        [sys.executable, "-m", "adatune_func"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout
    for words in (f"adatune_func {atf.__version__}", f"torch {torch.__version__}", "optree "):
        assert words in said
    assert "cpu: " in said and "atf.jit compiles by" in said
    assert "torch.compile(tuner.step, fullgraph=True)" in said
    assert said.count("self-check right") == 2
    assert str(Path.home()) not in said  # nothing of the person who pastes it


def test_a_derivative_that_is_wrong_is_seen(monkeypatch, capsys):
    """A tangent that gets lost on the way, as under a broken version of torch."""
    adamw = atf.adamw

    def broken(**options):
        optimizer = adamw(**options)

        def update(grads, state, params, hparams):
            updates, state = optimizer.update(grads, state, params, hparams)
            return {**updates, "0.weight": updates["0.weight"].detach()}, state

        return optimizer._replace(update=update)

    monkeypatch.setattr(atf, "adamw", broken)
    assert report.main([]) == 1
    assert "self-check WRONG: the hypergradient" in capsys.readouterr().out


def test_what_raises_is_in_the_report(monkeypatch, capsys):
    monkeypatch.setattr(atf, "jit", lambda fn, backend: torch.zeros(2) @ torch.zeros(3))
    assert report.main([]) == 1
    said = capsys.readouterr().out
    assert (
        "self-check FAILED: RuntimeError" in said and "self-check right: the hypergradient" in said
    )


def test_an_old_torch_is_named(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu126")
    assert any("needs torch 2.13" in line for line in report.devices())
