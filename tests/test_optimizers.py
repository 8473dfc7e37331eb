"""Optimizers equal torch.optim step for step, and clipping equals torch's."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.func import jvp

import adatune_func as atf
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import OPTIMIZERS

SGD = [
    {"momentum": m, "dampening": d, "weight_decay": w, "nesterov": n}
    for m, d, w, n in itertools.product((0.0, 0.9), (0.0, 0.3), (0.0, 0.1), (False, True))
    if not n or (m > 0 and d == 0)  # what torch allows
]
ADAM = [
    {"beta1": b1, "beta2": b2, "eps": eps, "weight_decay": w}
    for b1, b2, eps, w in itertools.product((0.0, 0.9), (0.9, 0.999), (1e-8, 1e-3), (0.0, 0.1))
]
CASES = [
    *[(atf.sgd, torch.optim.SGD, options) for options in SGD],
    *[(atf.adam, torch.optim.Adam, options) for options in ADAM],
    *[(atf.adamw, torch.optim.AdamW, options) for options in ADAM],
]


def gradients(steps=20):
    generator = torch.Generator().manual_seed(5)
    shapes = {"a": (3, 2), "b": (4,), "c": ()}
    draw = lambda s: torch.randn(s, generator=generator, dtype=torch.float64)  # noqa: E731
    return [{name: draw(shape) for name, shape in shapes.items()} for _ in range(steps + 1)]


def run(optimizer, params, grads, hparams):
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(g, state, params, hparams)
        params = tree_map(torch.add, params, updates)
    return params


@pytest.mark.parametrize("tensors", [False, True], ids=["floats", "tensors"])
def test_twenty_steps_equal_torch_optim(tensors):
    start, *grads = gradients()
    for ours, theirs, options in CASES:
        leaves = [p.clone().requires_grad_() for p in start.values()]
        words = dict(options)
        if "beta1" in words:
            words["betas"] = (words.pop("beta1"), words.pop("beta2"))
        twin = theirs(leaves, lr=0.03, **words)
        for g in grads:
            for p, name in zip(leaves, start, strict=True):
                p.grad = g[name].clone()
            twin.step()
        optimizer = ours(lr=0.03, **options)
        hparams = optimizer.hparams
        if tensors:  # as when they are tuned
            hparams = {k: torch.tensor(v, dtype=torch.float64) for k, v in hparams.items()}
        params = run(optimizer, start, grads, hparams)
        for p, name in zip(leaves, start, strict=True):
            torch.testing.assert_close(params[name], p.detach(), rtol=1e-12, atol=1e-12)


def test_adam_first_step_is_accurate_in_float32():
    params, grads = {"w": torch.zeros(1)}, {"w": torch.tensor([0.5])}
    optimizer = atf.adam(eps=0.0)
    for hparams in (optimizer.hparams, tree_map(torch.tensor, optimizer.hparams)):
        updates, _ = optimizer.update(grads, optimizer.init(params), params, hparams)
        assert abs(float(updates["w"]) / -1e-3 - 1) < 1e-6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tangents_are_finite_at_zero_gradients(name):
    """Units that never fired: v = 0 under Adam's root, norm 0 under clipping."""
    optimizer = OPTIMIZERS[name]
    params = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(3), "2.bias": torch.ones(3)}
    grads = tree_map(torch.zeros_like, params)
    hparams = {k: torch.tensor(v) for k, v in optimizer.hparams.items()}
    state = optimizer.init(params)
    step = lambda g, s, p, h: optimizer.update(g, s, p, h)  # noqa: E731
    ones = tree_map(torch.ones_like, (grads, state, params, hparams))
    tangents = jvp(step, (grads, state, params, hparams), ones)[1]
    for leaf in tree_leaves(tangents):
        assert leaf.isfinite().all()


def test_safe_sqrt_is_the_root_everywhere_but_its_derivative_at_0_is_0():
    v = torch.tensor([0.0, 4.0, 1e-300, -1.0, float("nan"), float("inf")], dtype=torch.float64)
    value, tangent = jvp(atf.safe_sqrt, (v,), (torch.ones_like(v),))[:2]
    assert torch.equal(value[:3], v.sqrt()[:3]) and value[3:5].isnan().all() and value[5].isinf()
    assert tangent[0] == 0 and torch.equal(tangent[1:3], 0.5 / v[1:3].sqrt())
    twice = torch.func.hessian(lambda v: atf.safe_sqrt(v).sum())(v[:2])
    torch.testing.assert_close(twice, torch.diag(torch.tensor([0.0, -1 / 32]).double()))


def test_beta_zero_has_the_right_derivative():
    """m/(1 - beta1^t) does not depend on beta1 at t = 1, also at beta1 = 0."""
    optimizer, params = atf.adam(), {"w": torch.ones(2, dtype=torch.float64)}
    grads = {"w": torch.tensor([1.0, -2.0], dtype=torch.float64)}

    def step(beta1):
        hparams = {**optimizer.hparams, "beta1": beta1}
        return optimizer.update(grads, optimizer.init(params), params, hparams)[0]["w"]

    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    tangent = jvp(step, (zero,), (one,))[1]
    assert tangent.abs().max() < 1e-12


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_clipping_equals_torch(scale):
    grads = tree_map(lambda g: scale * g, gradients(1)[1])
    leaves = {name: torch.zeros_like(g).requires_grad_() for name, g in grads.items()}
    params, seen = tree_map(torch.zeros_like, grads), {}
    for clip, theirs in (
        (atf.clip_grads, torch.nn.utils.clip_grad_value_),
        (atf.clip_grad_norm, torch.nn.utils.clip_grad_norm_),
    ):
        for name, leaf in leaves.items():
            leaf.grad = grads[name].clone()
        theirs(list(leaves.values()), 0.5)
        optimizer = clip(atf.sgd(lr=1.0), 0.5)
        seen, _ = optimizer.update(grads, optimizer.init(params), params, optimizer.hparams)
        for name, leaf in leaves.items():
            assert leaf.grad is not None
            torch.testing.assert_close(-seen[name], leaf.grad, rtol=1e-6, atol=1e-12)
