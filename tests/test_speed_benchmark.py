"""The benchmarks measure what they say: the rival computes the same numbers, parts are merged."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F

import adatune_func as atf
from benchmarks import curvature, record, speed
from benchmarks.classic import classic
from benchmarks.methods import METHODS
from tests.cases import tanh_mlp


def test_the_classic_formulation_has_the_hypergradients_of_ours():
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5))
    module = module.double()
    step, history = classic(copy.deepcopy(module), lr=0.1, mu=0.9, hyper_lr=1e-3)
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    rule = atf.additive(1e-3)
    tuner = atf.marthe(loss_fn, atf.sgd(momentum=0.9), mu=0.9, hyper_update=rule)
    state = tuner.init(params, {"lr": 0.1}, buffers)
    for batch, val_batch in tanh_mlp(steps=6).batches:
        step(batch, val_batch)
        state, info = tuner.step(state, batch, val_batch)
        assert history[-1] == pytest.approx(float(info.hypergrads["lr"]), rel=1e-10)


@pytest.fixture
def interpreted(monkeypatch):
    """Everything but the compiler, which other tests try."""
    monkeypatch.setattr(torch, "compile", lambda fn, **_: fn)


@pytest.mark.usefixtures("interpreted")
def test_speed_in_parts_is_merged_into_one_file(tmp_path, capsys):
    output = tmp_path / "speed.json"
    quick = ["--quick", "--networks", "mlp", "--output", str(output)]
    speed.main([*quick, "--methods", *METHODS])
    speed.main([*quick, "--methods", "exact"])
    results = json.loads(output.read_text())
    assert {row["method"] for row in results["rows"]} == set(METHODS)
    assert len(results["rows"]) == len(METHODS)
    assert all(row["ms"] > 0 and row["ratio"] > 0 for row in results["rows"])
    assert next(row for row in results["rows"] if row["method"] == "exact")["run"] == 1
    assert results["runs"][1]["torch"] == torch.__version__
    assert "| exact |" in capsys.readouterr().out


@pytest.mark.usefixtures("interpreted")
def test_curvature_ranks_its_strategies(tmp_path, monkeypatch):
    def batches(network, arguments):
        while True:
            yield tuple((torch.randn(8, 1, 28, 28), torch.randint(0, 10, (8,))) for _ in range(2))

    monkeypatch.setattr(curvature, "_batches", batches)
    output = tmp_path / "curvature.json"
    strategies = ["exact on 1/2", "no_curvature"]
    case = ["--networks", "mlp_smooth", "--learning-rates", "0.1", "--mu", "0.99", "--steps", "5"]
    curvature.main([*case, "--output", str(output), "--strategies", *strategies])
    near, far = json.loads(output.read_text())["rows"]
    assert (near["strategy"], far["strategy"]) == tuple(strategies)
    assert 0 < near["smallest cosine"] <= near["cosine"] <= 1


def test_a_table_is_markdown():
    rows = [{"a": 1.23456, "b": "x"}, {"a": 2, "b": None}]
    assert record.table(rows, ["a", "b"]).splitlines()[2:] == ["| 1.23 | x |", "| 2 |  |"]
