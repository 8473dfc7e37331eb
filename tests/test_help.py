"""``--help`` in groups, with defaults and an example each; progress for people and for pipes."""

from __future__ import annotations

import argparse
import time

import pytest
import torch

import adatune_func as atf
from benchmarks import baselines, language_model, rtho
from benchmarks.run import progress
from benchmarks.run.outputs import Row
from tests.cases import start, tanh_mlp

SCRIPTS = {script.parser().prog: script for script in (rtho, baselines, language_model)}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_has_groups_defaults_and_examples(name):
    parser = SCRIPTS[name].parser()
    said = parser.format_help()
    assert "\x1b" not in said
    assert said.count(f"python benchmarks/{name}") >= 2  # examples
    groups = {group.title: group._group_actions for group in parser._action_groups}
    assert [action.dest for action in groups["options"]] == ["help"]  # the rest has groups
    for title, actions in groups.items():
        for action in actions:
            if not isinstance(action, argparse._HelpAction):
                assert action.help and action.help.endswith(")"), (title, action.dest)
            if isinstance(action.default, int | float) and not isinstance(action.default, bool):
                number = float((action.help or "").rsplit("(", 1)[1].rstrip(")"))
                assert number == action.default, action.dest


@pytest.mark.parametrize("name", SCRIPTS)
def test_examples_parse(name):
    parser = SCRIPTS[name].parser()
    for line in (parser.epilog or "").splitlines()[1:]:
        command = line.split("#")[0].split()
        assert command[:2] == ["python", f"benchmarks/{name}"]
        parser.parse_args(command[2:])


def rows(bound):
    problem = tanh_mlp()
    tuner = atf.marthe(problem.loss_fn, atf.sgd(momentum=0.9), bound=bound)
    state, made = start(problem, tuner, {"lr": 0.1}), []
    for t, (batch, val_batch) in enumerate(problem.batches):
        state, info = tuner.step(state, batch, val_batch)
        made.append(Row(t, True, info, state.hparams, {}))
    return made


def test_the_bar_says_loss_lr_and_what_was_cut():
    free = progress.state_of_it(rows(None), 0.1)
    assert free["lr"] == "1.00e-01" and float(free["loss"]) > 0 and "cut" not in free
    cut = rows(atf.cut(1e-3))
    expected = sum(float(row.info.kept["lr"]) < 1 for row in cut)
    assert expected > 0 and progress.state_of_it(cut, 0.1)["cut"] == f"{expected}/5"
    refused = [row._replace(info=row.info._replace(accepted=torch.tensor(False))) for row in cut]
    assert progress.state_of_it(refused, 0.1)["refused"] == "5/5"


def test_time_left():
    began = time.monotonic() - 100
    assert progress.time_left(began, 10, 361) == "1:00:10 left"
    assert progress.time_left(began, 10, 0) == progress.time_left(began, 0, 10) == ""


def test_in_a_pipe_there_are_lines_only(tmp_path, capsys, monkeypatch):
    from benchmarks.run import training

    monkeypatch.setattr(training, "draw", lambda _: None)
    options = ["--network", "mlp", "--batch-size", "300", "--num-epoch", "2", "--no-compile"]
    assert rtho.main([*options, "--out", str(tmp_path / "run")]) == 0
    said, errors = capsys.readouterr()
    assert errors == "" and "\r" not in said and "\x1b" not in said
    first, second = (line for line in said.splitlines() if line.startswith("epoch"))
    assert first.endswith(" left") and "lr " in first and not second.endswith("left")
