"""The benchmarks measure what they say: the rival computes the same numbers, parts are merged."""

from __future__ import annotations

import copy
import json
import math
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F

import adatune_func as atf
from adatune_func import data
from benchmarks.run import record
from benchmarks.studies import curvature, families, horizon, per_layer, robustness, speed, tasks
from benchmarks.studies.classic import classic
from benchmarks.studies.methods import METHODS
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
    monkeypatch.setattr(atf, "jit", lambda fn, **_: fn)


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


def test_results_are_json_that_any_reader_takes(tmp_path):
    path, row = tmp_path / "some.json", {"seed": 0, "loss": math.nan, "lrs": [math.inf, 1.0]}
    record.merge(path, [row], ["seed"], {})
    assert json.loads(path.read_text())["rows"] == [
        {"seed": 0, "loss": None, "lrs": [None, 1.0], "run": 0}
    ]
    for kept in record.RESULTS.glob("*.json"):
        json.loads(kept.read_text(), parse_constant=lambda name, kept=kept: pytest.fail(f"{kept}"))


def test_an_overflowed_z_points_nowhere():
    problem = tanh_mlp()
    state = atf.marthe(problem.loss_fn, atf.sgd()).init(problem.params, {"lr": 0.1})
    info = atf.Info(*cast(Any, [{"lr": torch.ones(())}] * len(atf.Info._fields)))
    lost = state.z._replace(params={name: z + math.inf for name, z in state.z.params.items()})
    there = state.z._replace(params={name: z + 1 for name, z in state.z.params.items()})
    assert curvature._compare(there, info, there, info) == (pytest.approx(1.0), 1.0, 0.0)
    assert curvature._compare(lost, info, there, info) == (0.0, math.inf, 0.0)


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


@pytest.fixture
def colour_noise(monkeypatch):
    """A few random images in place of CIFAR-10's."""

    def read(root):
        same = torch.Generator().manual_seed(0)  # each time they are read
        images = torch.randint(0, 256, (210, 3, 32, 32), dtype=torch.uint8, generator=same)
        labels = torch.randint(0, 10, (210,), generator=same)
        return data.Split(images[:200], labels[:200]), data.Split(images[200:], labels[200:])

    source = data.SOURCES["cifar_10"]._replace(read=read, validation=64)
    monkeypatch.setitem(data.SOURCES, "cifar_10", source)


def results_of(script, output, *arguments):
    script.main([*map(str, arguments), "--output", str(output)])
    return json.loads(output.read_text())["rows"]


@pytest.mark.usefixtures("interpreted", "colour_noise")
def test_families_compare_both_modes(tmp_path):
    output = tmp_path / "families.json"
    rows = results_of(families, output, "--families", "vgg", "--steps", 2, "--batch-size", 8)
    assert [(row["optimizer"], row["mode"]) for row in rows] == [
        *(("sgd", mode) for mode in ("eager", "compiled")),
        *(("adam", mode) for mode in ("eager", "compiled")),
    ]
    assert all(row["lr_apart"] == 0 for row in rows[1::2])  # nothing was compiled here


@pytest.mark.usefixtures("colour_noise")
def test_layers_get_rates_of_their_own(tmp_path):
    arguments = ("--width", 1, "--steps", 3, "--batch-size", 8)
    one, layers = results_of(per_layer, tmp_path / "per_layer.json", *arguments)
    assert list(one["lr"]) == ["all"] and len(layers["lr"]) == 10
    assert len(set(layers["lr"].values())) > 1


@pytest.mark.usefixtures("interpreted")
def test_the_horizon_is_compared_on_the_same_batches(tmp_path, monkeypatch):
    short = tasks.TASKS["digits_mlp"]._replace(epochs=1)
    monkeypatch.setitem(tasks.TASKS, "digits_mlp", short)
    arguments = ("--task", "digits_mlp", "--mus", 0.9, 0.99, "--starts", 1e-3)
    short_memory, long_memory = results_of(horizon, tmp_path / "horizon.json", *arguments)
    assert short_memory["lrs"][0] == long_memory["lrs"][0] == 1e-3
    assert short_memory["accuracy"] > 50 and short_memory["loss"] != long_memory["loss"]


def test_a_table_is_markdown():
    rows = [{"a": 1.23456, "b": "x"}, {"a": 2, "b": None}]
    assert record.table(rows, ["a", "b"]).splitlines()[2:] == ["| 1.23 | x |", "| 2 |  |"]


@pytest.mark.usefixtures("interpreted")
def test_a_grid_of_starts_may_run_in_parts_alone_or_together(tmp_path, capsys):
    def rows(*arguments):
        given = ("--task", "digits_mlp", "--epochs", 1, "--optimizers", "sgd", "--seeds", 0)
        robustness.main([*map(str, (*given, "--folder", tmp_path, *arguments))])
        return json.loads((tmp_path / "robustness_digits_mlp.json").read_text())["rows"]

    ours = ("--methods", "marthe", "--starts", "1e-3", "1e-2")
    alone = rows(*ours)
    assert rows(*ours) == alone  # nothing is run twice
    (tmp_path / "robustness_digits_mlp.json").unlink()
    together = rows(*ours, "--together")
    for one, two in zip(alone, together, strict=True):
        assert one["lrs"] == pytest.approx(two["lrs"], rel=1e-2)
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-2)
    both = rows("--methods", "cosine", "marthe_averaged", "--starts", "1e-2")
    assert [row["method"] for row in both[2:]] == ["cosine", "marthe_averaged"]
    assert both[2]["last_lr"] < 1e-4 < both[2]["lrs"][0] == 1e-2
    assert len({row["loss"] for row in both}) == 4
    robustness.main(["--task", "digits_mlp", "--folder", str(tmp_path), "--plot"])
    assert (tmp_path / "robustness_digits_mlp.png").stat().st_size > 0
    assert "| marthe_averaged | sgd | 0.01 |" in capsys.readouterr().out
