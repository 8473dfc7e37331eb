"""The studies of hyperparameters inside the loss run, on small random images."""

from __future__ import annotations

import json

import torch

from adatune_func import data
from benchmarks.studies import loss_price, noisy_labels


def images(count):
    def split():
        labels = torch.randint(10, (count,))
        return data.Split(torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8), labels)

    one = torch.ones(1)
    return data.ImageData(split(), split(), split(), 0.1 * one, 0.3 * one, 10, False)


def test_wrong_labels_are_wrong_and_as_many_as_asked_for():
    clean = images(2000)
    noisy = noisy_labels.mislabeled(clean, 0.4, 1500, seed=0)
    wrong = noisy.train.labels != clean.train.labels[:1500]
    assert 0.36 < wrong.float().mean() < 0.44
    assert torch.equal(noisy.validation.labels, clean.validation.labels)
    assert noisy.train.labels.min() >= 0 and noisy.train.labels.max() == 9


def test_noisy_labels_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", lambda *_: images(256))
    output = tmp_path / "noisy.json"
    command = ["--eager", "--images", "256", "--epochs", "2", "--windows", "2", "1", "2"]
    command += ["--starts", "0.9", "--output", str(output)]
    noisy_labels.main([*command, "--seeds", "0", "--grid", "1.0"])
    first = json.loads(output.read_text())["rows"]
    tuned, neutral = (row["values"] for row in first)
    assert tuned[0] == 0.9 != tuned[-1] and set(neutral) == {1.0}
    noisy_labels.main([*command, "--seeds", "0", "--grid", "1.0", "0.6"])
    assert json.loads(output.read_text())["rows"][:2] == first
    assert "| constant | 0.6 | 1 |" in capsys.readouterr().out


def test_loss_price_compares_steps_with_as_many_columns(tmp_path):
    output = tmp_path / "price.json"
    command = ["--networks", "mlp", "--columns", "2", "--modes", "eager", "--size", "4"]
    command += ["--rounds", "1", "--inner", "1", "--output", str(output)]
    loss_price.main(command)
    (row,) = json.loads(output.read_text())["rows"]
    assert row["ratio"] > 0 and row["columns"] == 2
    for columns, pair in loss_price.TUNED.items():
        assert [len(tuned) for tuned in pair] == [columns, columns]
