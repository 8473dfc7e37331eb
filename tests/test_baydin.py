"""HD is Baydin et al. 2018 (arXiv 1703.04782), eq. 5-8 and their momentum and Adam forms."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad

import adatune_func as atf
from adatune_func.trees import dot, tree_map
from tests.cases import start, tanh_mlp

BETA, LR = 0.02, 0.1


def sgd(g, memory, t):
    return g, memory


def momentum(g, memory, t):
    v = tree_map(lambda m, g: 0.9 * m + g, memory[0], g)
    return v, (v, memory[1])


def adam(g, memory, t):
    m = tree_map(lambda m, g: 0.9 * m + 0.1 * g, memory[0], g)
    v = tree_map(lambda v, g: 0.999 * v + 0.001 * g**2, memory[1], g)
    direction = tree_map(
        lambda m, v: (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-4), m, v
    )
    return direction, (m, v)


@pytest.mark.parametrize(
    ("direction", "optimizer"),
    [
        (sgd, atf.sgd()),
        (momentum, atf.sgd(momentum=0.9)),
        (adam, atf.adam(eps=1e-4)),
    ],
)
def test_hd_is_the_published_recursion(direction, optimizer):
    """``lr_t = lr_{t-1} + β <g_t, d_{t-1}>``, ``w_{t+1} = w_t - lr_t d_t``, written out by hand."""
    problem = tanh_mlp(steps=12)
    tuner = atf.hd(problem.loss_fn, optimizer, hyper_update=atf.additive(BETA))
    state = start(problem, tuner, {"lr": LR})
    w, lr, last = problem.params, torch.tensor(LR, dtype=torch.float64), None
    memory = (tree_map(torch.zeros_like, w), tree_map(torch.zeros_like, w))
    for t, (batch, _) in enumerate(problem.batches, 1):
        g = grad(lambda p, batch=batch: problem.loss_fn(p, {}, batch)[0])(w)
        if last is not None:
            lr = lr + BETA * dot(g, last)
        last, memory = direction(g, memory, t)
        w = tree_map(lambda p, d, lr=lr: p - lr * d, w, last)
        state, _ = tuner.step(state, batch)
        torch.testing.assert_close(state.hparams["lr"], lr, rtol=1e-10, atol=0.0)
    assert abs(float(lr) - LR) > 1e-4
    for name in w:
        torch.testing.assert_close(state.params[name], w[name], rtol=1e-10, atol=1e-12)
