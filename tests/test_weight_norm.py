"""Weight norm has right products: against differences, and against itself written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import adatune_func as atf
from adatune_func.curvature import Gradient
from tests.cases import Problem
from tests.reference import reverse_mode

new = pytest.mark.skipif(
    not hasattr(parametrizations, "weight_norm"), reason="parametrized since torch 2.1"
)


def normed(dim=0):
    torch.manual_seed(0)
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(5, 8), dim=dim), nn.Tanh(), nn.Linear(8, 3)
    ).double()


def batch():
    torch.manual_seed(1)
    return torch.randn(6, 5).double(), torch.randint(3, (6,))


def gradient_and_products(module, pair, hvp):
    """``(g, H v)`` by the hvp, and ``H v`` by central differences of autograd's gradient."""
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    torch.manual_seed(2)
    v = {name: torch.randn_like(p) for name, p in params.items()}

    def autograd(sign):
        twin = dict(module.named_parameters())
        with torch.no_grad():
            for name, p in twin.items():
                p.copy_(params[name] + sign * 1e-5 * v[name])
        grads = torch.autograd.grad(F.cross_entropy(module(pair[0]), pair[1]), list(twin.values()))
        return dict(zip(twin, grads, strict=True))

    ahead, here, behind = (autograd(sign) for sign in (1, 0, -1))
    slope = {name: (ahead[name] - behind[name]) / 2e-5 for name in v}
    columns = {name: leaf[None] for name, leaf in v.items()}
    grads, products, _ = hvp(Gradient(loss_fn, buffers), params, pair, columns)
    return (grads, here), ({name: leaf[0] for name, leaf in products.items()}, slope)


@new
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("hvp", [atf.forward_over_reverse, atf.reverse_over_reverse])
def test_products_equal_differences_of_the_fused_gradient(dim, hvp):
    gradients, products = gradient_and_products(normed(dim), batch(), hvp)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(*products, rtol=1e-6, atol=1e-8)


@new
def test_a_convolution_normed_over_an_inner_dimension():
    torch.manual_seed(0)
    module = nn.Sequential(
        parametrizations.weight_norm(nn.Conv1d(3, 4, 3), dim=1), nn.Tanh(), nn.Flatten()
    ).double()
    pair = torch.randn(5, 3, 4).double(), torch.randint(8, (5,))
    gradients, products = gradient_and_products(module, pair, atf.exact)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(*products, rtol=1e-6, atol=1e-8)


@new
def test_the_fused_kernel_takes_the_norm_for_a_constant():
    """Why it is written anew. Where this fails torch has mended it, and ours may go."""
    torch.manual_seed(0)
    v, g, dv = torch.randn(4, 3).double(), torch.rand(4, 1).double(), torch.randn(4, 3).double()

    def gradient(v, norm_of):
        slope = torch.cos(v * (g / norm(v)))  # of sin(w).sum()
        length = norm_of(v)
        return g / length * (slope - v * (slope * v).sum(1, keepdim=True) / length**2)

    def norm(v):
        return v.norm(dim=1, keepdim=True)

    def product(fn):
        return torch.func.vjp(fn, v)[1](dv)[0]

    fused = product(torch.func.grad(lambda v: torch._weight_norm(v, g, 0).sin().sum()))
    right = product(lambda v: gradient(v, norm))
    stopped = product(lambda v: gradient(v, lambda v: norm(v).detach()))
    torch.testing.assert_close(fused, stopped, rtol=1e-10, atol=1e-12)
    assert (fused - right).norm() > 0.01 * right.norm()


class ByHand(nn.Module):
    """The same network, the norm written by hand."""

    def __init__(self, twin):
        super().__init__()
        parameters = dict(twin.named_parameters())
        self.g = nn.Parameter(parameters["0.parametrizations.weight.original0"].detach().clone())
        self.v = nn.Parameter(parameters["0.parametrizations.weight.original1"].detach().clone())
        self.b = nn.Parameter(parameters["0.bias"].detach().clone())
        self.last = twin[2]

    def forward(self, x):
        w = self.g * self.v / self.v.square().sum(1, keepdim=True).sqrt()
        return self.last(torch.tanh(x @ w.T + self.b))


@new
@pytest.mark.parametrize("hvp", [atf.exact, atf.reverse_over_reverse, atf.gauss_newton])
def test_a_run_is_that_of_the_network_by_hand(hvp):
    module, pairs = normed(), [(batch(), batch())] * 4
    found = []
    problem: Any = None
    for network in (module, ByHand(module)):
        loss_fn, params, buffers = atf.functionalize(network, F.cross_entropy)
        tuner = atf.rtho(loss_fn, atf.sgd(), hvp=hvp, hyper_update=atf.additive(0.0))
        state = tuner.init(params, {"lr": 0.5}, buffers)
        h = None
        for pair in pairs:
            state, info = tuner.step(state, *pair)
            h = info.hypergrads
        found.append(h)
        problem = Problem(loss_fn, params, buffers, pairs)
    torch.testing.assert_close(*found, rtol=1e-10, atol=0)
    if hvp is not atf.gauss_newton:
        want = reverse_mode(problem, atf.sgd(), {"lr": 0.5})
        torch.testing.assert_close(found[0], want, rtol=1e-10, atol=0)


@new
def test_the_module_itself_is_left_as_it_was_and_written_back():
    module, pair = normed(), batch()
    before = module(pair[0]).detach()
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    assert any(type(part).__name__ == "_WeightNorm" for part in module.modules())
    tuner = atf.rtho(loss_fn, atf.sgd())
    state, info = tuner.step(tuner.init(params, {"lr": 0.01}, buffers), pair, pair)
    want = F.cross_entropy(before, pair[1]).detach()
    torch.testing.assert_close(info.loss, want, rtol=1e-12, atol=0)
    atf.write_back(module, state)
    after = loss_fn(state.params, state.buffers, pair)[0]
    want = F.cross_entropy(module(pair[0]), pair[1]).detach()
    torch.testing.assert_close(after, want, rtol=1e-12, atol=0)


@new
@pytest.mark.parametrize("hvp", [atf.exact, atf.reverse_over_reverse])
def test_a_loss_of_ones_own_has_right_products_too(hvp):
    module, pair = normed(), batch()
    params = {name: p.detach().clone() for name, p in module.named_parameters()}

    def loss_fn(params, buffers, batch):
        output = torch.func.functional_call(module, params, (batch[0],))
        return F.cross_entropy(output, batch[1]), buffers

    pairs = [(pair, pair)] * 3
    report = atf.check_tangents(loss_fn, atf.sgd(), params, {"lr": 0.5}, pairs, hvp=hvp)["lr"]
    assert report.relative_error < 1e-6 and report.says == ()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_the_older_hook_has_right_products_too():
    torch.manual_seed(0)
    module = nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 8)), nn.Tanh(), nn.Linear(8, 3))
    gradients, products = gradient_and_products(module.double(), batch(), atf.exact)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(*products, rtol=1e-6, atol=1e-8)


@new
@pytest.mark.compiles
def test_compiled_equals_eager():
    loss_fn, params, buffers = atf.functionalize(normed(), F.cross_entropy)
    tuner = atf.rtho(loss_fn, atf.sgd())
    state, pair = tuner.init(params, {"lr": 0.01}, buffers), batch()
    state, _ = tuner.step(state, pair, pair)
    step = atf.jit(tuner.step, backend="eager")
    torch.testing.assert_close(
        step(state, pair, pair), tuner.step(state, pair, pair), rtol=1e-10, atol=1e-12
    )
