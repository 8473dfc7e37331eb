"""functionalize and write_back: pure, by name, and the module stays as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf


class Tied(nn.Module):
    """A tied embedding, a frozen layer, BatchNorm and a buffer that is not saved."""

    calls: torch.Tensor

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, tokens):
        self.calls.add_(1)
        return self.head(self.norm(self.frozen(self.embed(tokens))))


BATCH = (torch.arange(6), torch.arange(6))


def test_names_values_and_purity():
    module = Tied()
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    assert set(params) == {"embed.weight", "norm.weight", "norm.bias"}
    assert {"frozen.weight", "frozen.bias", "calls", "norm.running_mean"} <= set(buffers)
    before = {name: b.clone() for name, b in buffers.items()}
    loss, moved = loss_fn(params, buffers, BATCH)
    assert all(torch.equal(before[n], buffers[n]) for n in buffers)
    assert moved["calls"] == 1 and not torch.equal(
        moved["norm.running_mean"], buffers["norm.running_mean"]
    )
    torch.testing.assert_close(loss, F.cross_entropy(module(BATCH[0]), BATCH[1]))
    assert not any(t.requires_grad for t in (*params.values(), *buffers.values()))


def test_a_later_eval_or_step_changes_nothing():
    module = Tied()
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    loss, _ = loss_fn(params, buffers, BATCH)
    module.eval()
    with torch.no_grad():
        module.embed.weight.zero_()
    assert torch.equal(loss_fn(params, buffers, BATCH)[0], loss)


def test_eval_mode_is_fixed_too():
    module = Tied()
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy, train=False)
    assert module.training
    _, moved = loss_fn(params, buffers, BATCH)
    assert torch.equal(moved["norm.running_mean"], buffers["norm.running_mean"])


def test_write_back_copies_by_name_and_keeps_ties():
    module = Tied()
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    tuner = atf.rtho(loss_fn, atf.sgd(), hyper_update=atf.additive(1e-3))
    state = tuner.init(params, hparams={"lr": 0.5}, buffers=buffers)
    state, _ = tuner.step(state, BATCH, BATCH)
    atf.write_back(module, state)
    assert module.head.weight is module.embed.weight
    assert torch.equal(module.embed.weight, state.params["embed.weight"])
    assert module.calls == 1 and module.norm.num_batches_tracked == 1
    again = atf.functionalize(module, F.cross_entropy)
    assert torch.equal(again.params["embed.weight"], state.params["embed.weight"])


def test_write_back_copies_nothing_where_shapes_differ():
    module = nn.Linear(2, 1)
    loss_fn, params, buffers = atf.functionalize(module, F.mse_loss)
    stacked = {name: torch.stack([p + 1, p + 2]) for name, p in params.items()}
    with pytest.raises(ValueError, match=r"weight has shape \(2, 1, 2\) in the state and \(1, 2\)"):
        atf.write_back(module, atf.Functional(loss_fn, stacked, buffers))
    assert torch.equal(module.weight, params["weight"])


def test_several_inputs():
    module = nn.Bilinear(2, 3, 4)
    loss_fn, params, buffers = atf.functionalize(module, F.mse_loss)
    a, b, y = torch.randn(5, 2), torch.randn(5, 3), torch.randn(5, 4)
    torch.testing.assert_close(
        loss_fn(params, buffers, (a, b, y))[0], F.mse_loss(module(a, b), y).detach()
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p, b: (p, {}), "buffers.*missing"),
        (lambda p, b: ({**p, "extra": p["norm.bias"]}, b), r"params.*unknown extra"),
        (lambda p, b: ({"norm.bias": p["norm.bias"]}, b), r"params.*missing embed\.weight"),
    ],
)
def test_wrong_names_raise_in_words(change, words):
    module = Tied()
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    params, buffers = change(params, buffers)
    with pytest.raises(ValueError, match=words):
        loss_fn(params, buffers, BATCH)
    with pytest.raises(ValueError, match=r"missing|unknown"):
        atf.write_back(module, atf.Functional(loss_fn, params, buffers))


@pytest.mark.parametrize("criterion", [F.mse_loss, nn.MSELoss(), nn.MSELoss(reduction="sum")])
@pytest.mark.parametrize("hvp", [atf.exact, atf.gauss_newton])
def test_regression_has_exact_products(criterion, hvp):
    """pytorch#123996: forward mode fails inside the mean of mse_loss."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batch = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    loss_fn, params, buffers = atf.functionalize(module, criterion)
    assert float(loss_fn(params, buffers, batch)[0]) == pytest.approx(
        float(criterion(module(batch[0]), batch[1]).detach()), rel=1e-12
    )
    tuner = atf.marthe(loss_fn, atf.sgd(momentum=0.9), hvp=hvp)
    state, _ = tuner.step(tuner.init(params, {"lr": 0.01}, buffers), batch, batch)
    _, info = tuner.step(state, batch, batch)
    assert info.accepted and float(info.hypergrads["lr"]) < 0
