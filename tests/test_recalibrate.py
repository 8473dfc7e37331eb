"""BatchNorm's statistics at an average: what torch's own update_bn finds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

import adatune_func as atf


def network(momentum: float | None = 0.1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=momentum), nn.Tanh(), nn.Dropout(0.3),
        nn.Linear(8, 4), nn.BatchNorm1d(4, momentum=0.01, affine=False), nn.Linear(4, 3),
    ).double()  # fmt: skip


def batches(count=5, scale=1.0):
    torch.manual_seed(1)
    x = [scale * torch.randn(7 + i, 6).double() + 3 for i in range(count)]
    return [(b, torch.arange(len(b)) % 3) for b in x]


def averaged_run(module):
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    tuner = atf.marthe(loss_fn, atf.averaged(atf.sgd(), 4), hvp=atf.no_curvature)
    state = tuner.init(params, {"lr": 0.1}, buffers)
    for batch in batches():
        state, _ = tuner.step(state, batch, batch)
    return loss_fn, atf.averages(state)


@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_equals_update_bn(momentum, scale):
    module = network(momentum)
    loss_fn, state = averaged_run(module)
    before = {n: b.clone() for n, b in state.buffers.items()}
    found = atf.recalibrate(loss_fn, state, batches(scale=scale))
    assert all(torch.equal(before[n], state.buffers[n]) for n in before)
    atf.write_back(module, state)
    update_bn(batches(scale=scale), module)
    for name, want in module.named_buffers():
        if name.startswith("5.running"):
            continue  # below dropout, whose masks differ: the next test
        torch.testing.assert_close(found.buffers[name], want, rtol=1e-12, atol=1e-12, msg=name)


def test_below_a_dropout_that_is_off():
    module = network()
    module[3] = nn.Dropout(0.0)
    loss_fn, state = averaged_run(module)
    found = atf.recalibrate(loss_fn, state, batches())
    atf.write_back(module, state)
    update_bn(batches(), module)
    torch.testing.assert_close(found.buffers, dict(module.named_buffers()), rtol=1e-12, atol=1e-12)


def test_a_layer_in_eval_mode_keeps_its_statistics_and_is_used_with_them():
    module = network()
    module[1].eval()
    loss_fn, state = averaged_run(module)
    found = atf.recalibrate(loss_fn, state, batches())
    assert torch.equal(found.buffers["1.running_mean"], state.buffers["1.running_mean"])
    assert not torch.equal(found.buffers["5.running_mean"], state.buffers["5.running_mean"])


def test_without_statistics_nothing_changes_and_none_that_moves_is_said():
    plain = atf.functionalize(nn.Linear(6, 3).double(), F.cross_entropy)
    assert atf.recalibrate(plain.loss_fn, plain, batches()) is plain
    fixed = atf.functionalize(network(), F.cross_entropy, train=False)
    with pytest.raises(ValueError, match=r"moves none of the running statistics .*train=True"):
        atf.recalibrate(fixed.loss_fn, fixed, batches())
    with pytest.raises(ValueError, match="at least one batch"):
        atf.recalibrate(fixed.loss_fn, fixed, [])
