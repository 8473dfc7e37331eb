"""Judged at an average, lr moves where h there and h at the weights agree, once Z is old enough."""

from __future__ import annotations

import math

import pytest
import torch

import adatune_func as atf
from adatune_func.rules import relative_rule
from tests.cases import start, tanh_mlp


def said(judged, here, trust=1.0):
    values = [torch.tensor(v, dtype=torch.float64) for v in (judged, judged, here, trust)]
    return atf.Signal(*({"lr": value} for value in values))


def rise(judged, here, trust=1.0):
    """By how many steps of the rule lr goes up, after a first |h| of 1 at both points."""
    rule = atf.relative(0.1, halving=math.inf, decays=(0.0, 0.5))
    hparams = {"lr": torch.tensor(0.3, dtype=torch.float64)}
    _, state = rule.update(said(1.0, 1.0), rule.init(hparams), hparams)
    # per unit of log lr, as the rule sees it
    new, _ = rule.update(said(judged, here, trust), state, hparams)
    return math.log(float(new["lr"]) / 0.3) / 0.1


def ratio(h):
    """``m / r̂`` of h after 1, with decays 0 and 0.5."""
    return h / math.sqrt((0.25 + 0.5 * h * h) / 0.75)


@pytest.mark.parametrize(
    ("judged", "here", "want"),
    [
        (-0.5, -0.5, -ratio(-0.5)),
        (-0.5, -0.25, ratio(0.25) ** 2 / ratio(0.5)),
        (-0.25, -0.5, ratio(0.25) ** 2 / ratio(0.5)),
        (0.5, 0.25, -(ratio(0.25) ** 2) / ratio(0.5)),
        (0.5, 1e-3, -(ratio(1e-3) ** 2) / ratio(0.5)),
        (-0.5, 0.25, 0.0),
        (0.25, -0.5, 0.0),
        (0.5, 0.0, 0.0),
        (float("nan"), 0.5, 0.0),
        (0.5, float("inf"), 0.0),
    ],
)
def test_lr_moves_where_both_agree_by_the_smaller_times_its_share(judged, here, want):
    assert rise(judged, here) == pytest.approx(want, abs=1e-12)


def test_two_witnesses_that_are_one_move_lr_to_the_last_bit_as_one_does():
    ratios = torch.rand(1000) * 2 - 1
    assert torch.equal(relative_rule._agreed(ratios, ratios), ratios)


def test_noise_at_one_witness_is_no_ratchet():
    """The other sure of less lr, a noise of 0.1 here: 0.04 a step by the smaller one alone."""
    noise = 0.1 * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    drift = float(relative_rule._agreed(noise, torch.full_like(noise, 0.6)).mean())
    assert drift == pytest.approx(0.1**2 / (2 * 0.6), rel=0.03)


def test_a_young_tangent_moves_lr_less():
    assert rise(-0.5, -0.5, 0.25) == pytest.approx(-0.25 * ratio(-0.5), abs=1e-12)


class Recorder:
    """A rule that moves nothing and keeps what it was told."""

    def __init__(self):
        self.signals = []
        rule = atf.additive(0.0)
        self.rule = rule._replace(update=self.update)

    def update(self, signal, state, hparams):
        self.signals.append(signal)
        return hparams, state


def test_what_a_rule_is_told_at_an_average():
    """``<g, mu Z>`` at w for lr, h itself for what is no lr; trust grows as Z does."""
    run, told = tanh_mlp(steps=9), Recorder()
    optimizer = atf.averaged(atf.sgd(momentum=0.5), 4)
    tuner = atf.marthe(run.loss_fn, optimizer, mu=0.9, hyper_update=told.rule)
    state = start(run, tuner, {"lr": 0.1, "weight_decay": 0.01})
    step, age = atf.windowed(tuner, atf.windows(5, 2, 4)), 0.0
    for t, batches in enumerate(run.batches):
        before, (state, info) = state, step(t, state, *batches)
        if t in (5, 6):  # a gap: Z is forgotten
            age = 0.0
            continue
        signal, age = told.signals[-1], 0.9 * age + 1
        grads, _ = torch.func.grad_and_value(
            lambda p, x=batches[0]: run.loss_fn(p, run.buffers, x)[0]
        )(before.params)
        z = before.z.params if t not in (0, 7) else {n: 0 * v for n, v in before.z.params.items()}
        want = sum(0.9 * (grads[n] * z[n][0]).sum() for n in grads)
        torch.testing.assert_close(signal.here["lr"], want, rtol=1e-12, atol=1e-15)
        assert signal.here["weight_decay"] is info.hypergrads["weight_decay"]
        assert float(signal.trust["lr"]) == pytest.approx(min(1.0, age / 4))


def test_at_the_weights_there_is_one_witness():
    run, told = tanh_mlp(steps=3), Recorder()
    tuner = atf.marthe(run.loss_fn, atf.sgd(), hyper_update=told.rule)
    state = start(run, tuner, {"lr": 0.1})
    for batches in run.batches:
        state, _ = tuner.step(state, *batches)
    assert all(s.here is s.hypergrads and float(s.trust["lr"]) == 1 for s in told.signals)


def descent(rule, lr, bound, mu=0.995):
    """lr before each of twenty steps on a loss with curvatures 1 to 4, and the shares left."""
    scale = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)

    def loss_fn(params, buffers, batch):
        return (scale * (params["w"] - batch).square()).sum() / 2, buffers

    tuner = atf.marthe(
        loss_fn, atf.sgd(), mu=mu, hyper_update=rule, bound=bound, outer="next_batch"
    )
    state = tuner.init({"w": torch.ones_like(scale)}, {"lr": lr})
    lrs, shares = [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        lrs.append(float(state.hparams["lr"]))
        batch = 0.1 * torch.randn(3, dtype=torch.float64, generator=generator)
        state, info = tuner.step(state, batch)
        shares.append(float(info.kept["lr"]))
    return lrs, shares


def test_lr_steps_back_where_its_tangent_begins_again():
    still = atf.relative(1e-15, longest=math.inf)
    lrs, shares = descent(still, 0.6, atf.begin_again(1 + 1e-12))
    assert 0.0 in shares[:-1] and 1.0 in shares[:-1]
    for before, after, share in zip(lrs, lrs[1:], shares, strict=False):
        assert after == pytest.approx(before if share == 1 else 0.9 * before, rel=1e-12)
    assert {*descent(atf.additive(0.0), 0.6, atf.begin_again(1 + 1e-12))[0]} == {0.6}


@pytest.mark.parametrize("factor", [1.1, 1 / 1.1])
def test_the_bound_is_exact_while_lr_moves(factor):
    """Below the edge no tangent is longer than its path, however lr goes: RTHO, mu 1."""

    def move(signal, state, hparams):
        return {"lr": hparams["lr"] * factor}, state

    rule = atf.additive(0.0)._replace(update=move)
    lr = 0.05 if factor > 1 else 0.4
    lrs, shares = descent(rule, lr, atf.begin_again(1 + 1e-12), mu=1.0)
    assert max(lrs) < 0.5 and max(lrs) / min(lrs) > 5
    assert shares == [1.0] * 20
