"""Rules: coordinates, bounds, first steps, signals that are not finite, twins in Python."""

from __future__ import annotations

import math

import pytest
import torch

import adatune_func as atf
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import OPTIMIZERS, start, tanh_mlp

STARTS = {
    "lr": 0.1,
    "weight_decay": 1e-3,
    "eps": 1e-6,
    "momentum": 0.9,
    "beta1": 0.5,
    "beta2": 0.99,
    "tau": 2.0,
}


def scalars(values, dtype=torch.float64):
    return {name: torch.tensor(value, dtype=dtype) for name, value in values.items()}


def signal(cosines, like):
    cosine = {name: torch.full_like(eta, cosines) for name, eta in like.items()}
    return atf.Signal(
        h := tree_map(lambda c: 7.0 * c, cosine), cosine, h, tree_map(torch.ones_like, h)
    )


def walk(rule, hparams, cosines):
    state = rule.init(hparams)
    for cosine in cosines:
        hparams, state = rule.update(signal(cosine, hparams), state, hparams)
    return hparams, state


def test_relative_moves_each_hyperparameter_on_its_own_line():
    """One certain step of 0.1: a factor of η; a tenth of it for 1 - η, the other way."""
    hparams = scalars(STARTS)
    up, _ = walk(atf.relative(0.1), hparams, [-0.3])
    down, _ = walk(atf.relative(0.1), hparams, [0.3])
    for name, eta in STARTS.items():
        if name in ("momentum", "beta1", "beta2"):
            assert 1 - float(up[name]) == pytest.approx((1 - eta) * math.exp(-0.01), rel=1e-12)
            assert 1 - float(down[name]) == pytest.approx((1 - eta) * math.exp(0.01), rel=1e-12)
        else:
            assert float(up[name]) == pytest.approx(eta * math.exp(0.1), rel=1e-12)
            assert float(down[name]) == pytest.approx(eta * math.exp(-0.1), rel=1e-12)


def test_relative_equals_its_closed_form():
    cosines = [0.2, -0.5, -0.4, 0.1, -0.6, 0.0, -0.1, -9.0, 1e3, -0.2]
    for name, first in (("lr", 0.01), ("beta2", 0.9)):
        got, _ = walk(atf.relative(0.07, 20.0, (0.8, 0.95)), scalars({name: first}), cosines)
        m = v = n = 0.0
        eta = first
        for h in (7 * c for c in cosines):
            d = h * eta if name == "lr" else -h * (1 - eta)
            if d == 0:
                continue
            usual = 10 * math.sqrt(v / (1 - 0.95**n)) if n else math.inf
            d = max(-usual, min(usual, d))
            n, m, v = n + 1, 0.8 * m + 0.2 * d, 0.95 * v + 0.05 * d * d
            ratio = (m / (1 - 0.8**n)) / math.sqrt(v / (1 - 0.95**n))
            step = 0.07 / (1 + (n - 1) / 20)
            factor = math.exp(-step * max(-1.0, min(1.0, ratio)))
            eta = eta * factor if name == "lr" else 1 - (1 - eta) * factor**0.1
        assert float(got[name]) == pytest.approx(eta, rel=1e-12)


def test_additive_equals_its_closed_form():
    rule = atf.additive(1e-3, alpha=0.1)
    hparams = scalars({"lr": 0.01})
    got, state = walk(rule, hparams, [0.2, -0.5, 0.9])
    eta, beta = 0.01, 1e-3
    for c in (0.2, -0.5, 0.9):
        eta = max(eta - beta * 7 * c, 0.0)
        beta = max(beta + 0.1 * 7 * c * eta, 0.0)
    assert float(got["lr"]) == pytest.approx(eta, rel=1e-12)
    assert float(state.beta["lr"]) == pytest.approx(beta, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cosine", [1.0, -1.0, 1e-30])
def test_relative_never_leaves_the_domain_nor_moves_too_far(cosine, dtype):
    rule, hparams = atf.relative(1.5), scalars(STARTS, dtype)
    state = rule.init(hparams)
    for _ in range(60):
        moved, state = rule.update(signal(cosine, hparams), state, hparams)
        for name, eta in moved.items():
            low, high = atf.DOMAINS.get(name, (1e-12, math.inf))
            assert low * (1 - 1e-7) <= float(eta) <= high * (1 + 1e-7) and math.isfinite(float(eta))
            if name == "lr" and eta > 1e-11:
                assert abs(math.log(eta / hparams[name])) <= 1.5 + 1e-3
        hparams = moved


@pytest.mark.parametrize("rule", [atf.relative(), atf.additive(1e-3, alpha=1.0)])
def test_nothing_moves_at_no_signal_nor_at_one_that_is_not_finite(rule):
    hparams = scalars(STARTS, torch.float32)
    state = rule.init(hparams)
    for bad in (0.0, math.nan, math.inf, -math.inf):
        moved, after = rule.update(signal(bad, hparams), state, hparams)
        assert all(torch.equal(moved[name], hparams[name]) for name in hparams)
        for old, new in zip(tree_leaves(state), tree_leaves(after), strict=True):
            assert torch.equal(old, new)


def test_relative_stands_still_in_noise_and_walks_on_a_signal():
    torch.manual_seed(0)
    noise = (0.05 * torch.randn(400)).tolist()
    lost, _ = walk(atf.relative(), scalars({"lr": 0.1}), noise)
    gone, _ = walk(atf.relative(), scalars({"lr": 1e-6}), [-0.05] * 200)
    assert abs(math.log(float(lost["lr"]) / 0.1)) < 1.5
    # as lr climbs, d = h·lr grows and the walk is at full step all the way
    whole = sum(0.1 / (1 + n / 100) for n in range(200))
    assert math.log(float(gone["lr"]) / 1e-6) == pytest.approx(whole, rel=1e-6)


def test_relative_takes_a_dict_of_prefixes():
    hparams = {"lr": scalars({"conv": 0.1, "": 0.2})}
    cosine = {"lr": scalars({"conv": 0.5, "": -0.5})}
    rule = atf.relative(0.1)
    moved, _ = rule.update(
        atf.Signal(cosine, cosine, cosine, tree_map(torch.ones_like, cosine)),
        rule.init(hparams),
        hparams,
    )
    assert float(moved["lr"]["conv"]) == pytest.approx(0.1 * math.exp(-0.1))
    assert float(moved["lr"][""]) == pytest.approx(0.2 * math.exp(0.1))


@pytest.mark.compiles
def test_relative_compiles_and_maps_over_states():
    rule, problem = atf.relative(), tanh_mlp()
    tuner = atf.marthe(problem.loss_fn, OPTIMIZERS["adamw"], hyper_update=rule)
    hparams = [{"lr": lr, "beta1": 0.9} for lr in (1e-4, 1e-2)]
    states = [start(problem, tuner, eta) for eta in hparams]
    together = tree_map(lambda *leaves: torch.stack(leaves), *states)
    compiled = atf.jit(tuner.step, backend="aot_eager")
    mapped = torch.func.vmap(tuner.step, in_dims=(0, None, None))
    fast = states[0]
    for batch, val_batch in problem.batches:
        fast, _ = compiled(fast, batch, val_batch)
        together, _ = mapped(together, batch, val_batch)
        states = [tuner.step(state, batch, val_batch)[0] for state in states]
    assert float(states[0].hparams["lr"]) != 1e-4
    for one, many, quick in zip(
        tree_leaves(states[0]), tree_leaves(together), tree_leaves(fast), strict=True
    ):
        torch.testing.assert_close(many[0], one, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(quick, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [atf.marthe, atf.rtho, atf.hd])
def test_relative_is_the_default(method):
    problem = tanh_mlp()
    tuner = method(problem.loss_fn, atf.sgd())
    state = start(problem, tuner, {"lr": 0.1})
    assert isinstance(state.hyper_state, atf.rules.relative_rule.RelativeState)
    for batch, val_batch in problem.batches:
        state, info = tuner.step(state, batch, val_batch)
        assert info.accepted
    assert float(state.hparams["lr"]) != 0.1


def test_errors_in_words():
    lr = scalars({"lr": 0.1})
    for make, values, words in (
        (lambda: atf.relative(), {"weight_decay": 0.0}, "weight_decay cannot move"),
        (lambda: atf.relative(), {"lr": 0.0}, "lr cannot move"),
        (lambda: atf.relative(domains={"x": (-1, 1)}), {"x": -1.0}, "x = -1 lies on the border"),
        (lambda: atf.relative(), {"momentum": 1.0}, "momentum = 1 lies outside"),
        (lambda: atf.relative(0.0), {"lr": 0.1}, "step and halving must be positive"),
        (lambda: atf.relative(decays=(0.9, 1.0)), {"lr": 0.1}, "decays must lie in"),
        (lambda: atf.additive(-1.0), {"lr": 0.1}, "hyper_lr and alpha must be >= 0"),
        (lambda: atf.additive({"momentum": 1.0}), {"lr": 0.1}, "no entry for 'lr'"),
    ):
        with pytest.raises(ValueError, match=words):
            make().init(scalars(values))
    assert (
        float(walk(atf.relative(), {**lr, **scalars({"momentum": 0.0})}, [0.1])[0]["momentum"]) == 0
    )
