"""Lines on which hyperparameters move: what the rules and the bound measure on."""

from __future__ import annotations

import math

import pytest
import torch

import adatune_func as atf
from adatune_func.rules.coordinates import line_of
from tests.cases import start
from tests.loss_cases import loss_problem


@pytest.mark.parametrize(
    ("name", "domain", "etas"),
    [
        ("s", (0.0, 1.0), [1e-4, 0.3, 0.999]),
        ("s", (-2.0, 3.0), [-1.9, 0.0, 2.5]),
        ("s", (0.0, math.inf), [1e-6, 2.0, 1e3]),
        ("s", (-math.inf, math.inf), [-4.0, 0.0, 7.0]),
        ("momentum", atf.DOMAINS["momentum"], [0.0, 0.9, 0.999]),
    ],
)
def test_a_line_is_one(name, domain, etas):
    """Steps add up, the slope is that of the line, and no step leaves the domain."""
    line = line_of(name, domain)
    for eta in torch.tensor(etas, dtype=torch.float64):
        one, two = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)
        there = line.shifted(line.shifted(eta, one), two)
        torch.testing.assert_close(there, line.shifted(eta, one + two), rtol=1e-12, atol=1e-12)
        slope = -torch.func.grad(lambda d, eta=eta: line.shifted(eta, d))(torch.zeros_like(eta))
        torch.testing.assert_close(line.slope(eta), slope, rtol=1e-12, atol=1e-15)
        for far in (-50.0, 50.0):
            far = line.shifted(eta, torch.tensor(far, dtype=torch.float64)).clamp(*line.ends)
            assert domain[0] <= far <= domain[1] and line.slope(far) != 0


@pytest.mark.parametrize("rule", [atf.relative(step=1.0), atf.additive(1e6)])
def test_a_value_stays_in_the_domain_that_its_loss_says(rule):
    problem = loss_problem("smoothing", steps=1)
    tuner = atf.marthe(problem.loss_fn, atf.sgd(lr=0.1), hyper_update=rule, mu=0.0)
    for value in (0.02, 0.98):
        state = start(problem, tuner, {"smoothing": value})
        for _ in range(8):
            state, _ = tuner.step(state, *problem.batches[0])
            assert 0 <= state.hparams["smoothing"] <= 1
        assert state.hparams["smoothing"] != value


def test_the_bound_measures_on_the_line():
    """A step's length in units of η_k: over ``dη/dx``, lr and ``s (1 - s)``."""
    problem, seen = loss_problem("smoothing", steps=1), []

    def watching(size, path):
        seen.append((size, path))
        return torch.ones_like(size)

    tuner = atf.marthe(problem.loss_fn, atf.sgd(lr=0.1), mu=1.0, bound=watching)
    before = start(problem, tuner, {"lr": 0.1, "smoothing": 0.2})
    after, _ = tuner.step(before, *problem.batches[0])
    ((size, path),) = seen
    moved = [(after.params[n] - before.params[n]).square().sum() for n in before.params]
    slopes = torch.tensor([0.1, 0.2 * 0.8], dtype=torch.float64)
    torch.testing.assert_close(path, torch.stack(moved).sum().sqrt() / slopes)
    lengths = [leaf.flatten(1).square().sum(1) for leaf in after.z.params.values()]
    torch.testing.assert_close(size, torch.stack(lengths).sum(0).sqrt())
