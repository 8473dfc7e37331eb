"""The studies of hyperparameters inside the loss run, on small random images."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F

from adatune_func import data
from benchmarks.studies import loss_cases, loss_figure, loss_hparams, loss_price


def images(count):
    def split():
        labels = torch.randint(10, (count,))
        return data.Split(torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8), labels)

    one = torch.ones(1)
    return data.ImageData(split(), split(), split(), 0.1 * one, 0.3 * one, 10, False)


def test_wrong_labels_are_wrong_and_as_many_as_asked_for():
    clean = loss_cases.first(images(2000), 1500)
    noisy = loss_cases.with_pairs(clean, seed=0)
    digits, pairs = noisy.train.labels.unbind(1)
    wrong = digits != clean.train.labels
    assert 0.36 < wrong.float().mean() < 0.44
    assert torch.equal(pairs, clean.train.labels // 2)
    assert torch.equal(noisy.validation.labels[:, 0], clean.validation.labels)
    assert digits.min() >= 0 and digits.max() == 9


def test_imbalanced_images_and_their_weights():
    labels = torch.arange(10).repeat(1200)
    pixels = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)
    few = loss_cases.imbalanced(images(10)._replace(train=data.Split(pixels, labels)))
    counts = few.train.labels.bincount()
    assert counts[0] == 1000 and counts[9] == 10
    weighed = counts * torch.tensor(loss_cases.weights(1.0)["weight"])
    assert weighed.max() < 1.06 * weighed.min()  # but for rounding 10.08 images to 10
    output, target = torch.randn(64, 10), torch.randint(10, (64,))
    given = torch.tensor(loss_cases.weights(0.5)["weight"])
    torch.testing.assert_close(
        loss_cases.balanced(output, target, 0.5), F.cross_entropy(output, target, given)
    )


def test_a_calibrated_loss_does_not_see_how_sure_the_outputs_are():
    target = torch.arange(64) % 10
    output = torch.randn(64, 10, dtype=torch.float64) + 2.0 * F.one_hot(target, 10)
    lower = loss_cases.calibrated(output, target)
    assert lower <= F.cross_entropy(output, target)
    torch.testing.assert_close(lower, loss_cases.calibrated(2.0 * output, target))


def test_the_losses_of_the_cases():
    """Neutral, they are cross-entropy; a correction or a mixture is what the formula says."""
    output, target = torch.randn(64, 10, dtype=torch.float64), torch.randint(10, (64,))
    plain = F.cross_entropy(output, target)
    for criterion in (loss_cases.bootstrap, loss_cases.smoothing, loss_cases.correction):
        torch.testing.assert_close(criterion(output, target), plain)
    smoothed = loss_cases.smoothing(output, target, 0.3)
    torch.testing.assert_close(smoothed, F.cross_entropy(output, target, label_smoothing=0.3))
    pairs = output.softmax(1).unflatten(1, (5, 2)).sum(2).log()
    both = torch.stack([target, target // 2], 1)
    coarse = loss_cases.fine_and_coarse(output, both, 0.25)
    torch.testing.assert_close(coarse, 0.75 * plain + 0.25 * F.nll_loss(pairs, target // 2))
    model = torch.nn.Flatten()
    loss = loss_cases.mixup(torch.nn.Sequential(model, torch.nn.Linear(4, 10)).double())
    params = {"1.weight": torch.randn(10, 4).double(), "1.bias": torch.zeros(10).double()}
    batch = torch.randn(64, 1, 2, 2).double(), target
    assert loss.plain is not None
    mixed, _ = loss.fn(params, {}, batch, {"strength": 0.0})
    torch.testing.assert_close(mixed, loss.plain(params, {}, batch)[0])


def test_loss_hparams_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", lambda *_: images(256))
    output = tmp_path / "loss.json"
    command = ["--cases", "bootstrap", "--epochs", "2", "--windows", "2", "1", "2"]
    command += ["--starts", "0.5", "--output", str(output)]
    loss_hparams.main([*command, "--seeds", "0", "--grid", "1"])
    first = json.loads(output.read_text())["rows"]
    values = {row["method"]: [at[0] for at in row["values"]] for row in first}
    assert values["tuned"][0] == 0.5 != values["tuned"][-1]
    assert set(values["constant"]) == set(values["merged"]) == {1.0}
    loss_hparams.main([*command, "--seeds", "0", "--grid", "1", "0.6"])
    assert json.loads(output.read_text())["rows"][:3] == first
    assert "| bootstrap | constant | 0.6 | 1 |" in capsys.readouterr().out


def test_the_page_has_the_figures_of_the_results():
    """After ``python -m benchmarks.studies.loss_figure`` nothing changes."""
    text = loss_figure.PAGE.read_text()
    assert "<!-- figures: loss_hparams -->" in text
    assert loss_figure.rewritten(text) == text


def test_loss_price_compares_steps_with_as_many_columns(tmp_path):
    output = tmp_path / "price.json"
    command = ["--networks", "mlp", "--columns", "2", "--modes", "eager", "--size", "4"]
    command += ["--rounds", "1", "--inner", "1", "--output", str(output)]
    loss_price.main(command)
    (row,) = json.loads(output.read_text())["rows"]
    assert row["ratio"] > 0 and row["columns"] == 2
    for columns, pair in loss_price.TUNED.items():
        assert [len(tuned) for tuned in pair] == [columns, columns]
