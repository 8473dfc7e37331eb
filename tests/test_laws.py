"""What holds for every tuner, optimizer and hvp: pure, stable, finite, vmappable."""

from __future__ import annotations

from typing import Any

import optree
import pytest
import torch

import adatune_func as atf
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import (
    METHODS,
    OPTIMIZERS,
    conv_batchnorm,
    dropout_mlp,
    start,
    tanh_mlp,
)

structure: Any = optree.tree_structure


def run(tuner, problem, hparams, step=None):
    state, infos = start(problem, tuner, hparams), []
    for batch, val_batch in problem.batches:
        state, info = (step or tuner.step)(state, batch, val_batch)
        infos.append(info)
    return state, infos


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_is_pure_and_keeps_structure(optimizer, method):
    problem = conv_batchnorm(steps=2, dtype=torch.float32)
    tuner = METHODS[method](problem.loss_fn, OPTIMIZERS[optimizer], atf.exact)
    state = start(problem, tuner, {"lr": 0.005})
    for batch, val_batch in problem.batches:
        before = tree_map(torch.clone, (state, batch, val_batch))
        after, info = tuner.step(state, batch, val_batch)
        for old, new in zip(
            tree_leaves(before), tree_leaves((state, batch, val_batch)), strict=True
        ):
            assert torch.equal(old, new)
        assert structure(after) == structure(state)
        for old, new in zip(tree_leaves(state), tree_leaves(after), strict=True):
            assert (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device)
        assert not any(leaf.requires_grad for leaf in tree_leaves((after, info)))
        assert info.accepted
        state = after


def test_nothing_hangs_on_tensors_that_require_grad():
    problem = tanh_mlp()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)  # captured by the loss
    loss_fn = lambda p, b, batch: (scale * problem.loss_fn(p, b, batch)[0], b)  # noqa: E731
    tuner = atf.rtho(loss_fn, atf.sgd(), hyper_update=atf.additive(1e-3))
    params = {name: p.clone().requires_grad_() for name, p in problem.params.items()}
    state = tuner.init(params, hparams={"lr": torch.tensor(0.1, requires_grad=True)})
    state, info = tuner.step(state, *problem.batches[0])
    assert not any(leaf.requires_grad for leaf in tree_leaves((state, info)))


def test_validation_never_moves_the_running_statistics():
    problem = conv_batchnorm(steps=1)
    (x, y), (vx, vy) = problem.batches[0]
    tuner = atf.rtho(problem.loss_fn, atf.sgd(), hyper_update=atf.additive(1e-3))
    state = start(problem, tuner, {"lr": 0.1})
    one, _ = tuner.step(state, (x, y), (vx, vy))
    two, _ = tuner.step(state, (x, y), (100 * vx, vy))
    for name in one.buffers:
        assert torch.equal(one.buffers[name], two.buffers[name])
    assert one.buffers["1.num_batches_tracked"] == 1


@pytest.mark.parametrize("problem", [conv_batchnorm, dropout_mlp])
@pytest.mark.parametrize("method", ["marthe", "hd"])
def test_vmap_over_states(problem, method):
    problem = problem(steps=3)
    tuner = METHODS[method](problem.loss_fn, OPTIMIZERS["sgd_momentum"], atf.exact)
    lrs = [0.01, 0.1]
    states = [start(problem, tuner, {"lr": lr}) for lr in lrs]
    together = tree_map(lambda *leaves: torch.stack(leaves), *states)
    step = torch.func.vmap(tuner.step, in_dims=(0, None, None), randomness="different")
    for batch, val_batch in problem.batches:
        together, _ = step(together, batch, val_batch)
        states = [tuner.step(state, batch, val_batch)[0] for state in states]
    for i, alone in enumerate(states):
        for one, many in zip(tree_leaves(alone), tree_leaves(together), strict=True):
            assert many.shape[1:] == one.shape
            if problem.buffers:  # with dropout each member draws its own mask
                torch.testing.assert_close(many[i], one, rtol=1e-9, atol=1e-12)


def test_several_columns_under_an_outer_vmap():
    problem = conv_batchnorm(steps=2)
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["adam"], atf.exact)
    states = [start(problem, tuner, {"lr": lr, "weight_decay": 1e-2}) for lr in (0.01, 0.1)]
    together = tree_map(lambda *leaves: torch.stack(leaves), *states)
    step = torch.func.vmap(tuner.step, in_dims=(0, None, None))
    together, _ = step(together, *problem.batches[0])
    alone, _ = tuner.step(states[1], *problem.batches[0])
    for one, many in zip(tree_leaves(alone), tree_leaves(together), strict=True):
        torch.testing.assert_close(many[1], one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("where", ["input", "loss"])
def test_a_batch_that_is_not_finite_is_a_null_step(where):
    problem = conv_batchnorm(steps=2)
    (x, y), val_batch = problem.batches[0]
    bad = torch.full_like(x, float("nan")) if where == "input" else x * 1e308
    for method in METHODS:
        tuner = METHODS[method](problem.loss_fn, OPTIMIZERS["adam"], atf.exact)
        state, _ = tuner.step(start(problem, tuner, {"lr": 0.1}), *problem.batches[1])
        after, info = tuner.step(state, (bad, y), val_batch)
        assert not info.accepted
        for old, new in zip(tree_leaves(state), tree_leaves(after), strict=True):
            assert torch.equal(old, new)
        assert tuner.step(after, (x, y), val_batch)[1].accepted


def test_no_hyperparameters_is_plain_training():
    problem = tanh_mlp(dtype=torch.float32)
    sgd = atf.sgd(lr=0.1, momentum=0.9)
    tuned = atf.marthe(problem.loss_fn, sgd, hyper_update=atf.additive(1e-3))
    plain = atf.plain(problem.loss_fn, sgd)
    one, infos = run(tuned, problem, {})
    two, _ = run(plain, problem, {})
    assert infos[0].hypergrads == {} and tree_leaves(one.z)[0].shape[0] == 0
    for name in one.params:
        torch.testing.assert_close(one.params[name], two.params[name])


def test_plain_follows_its_schedule_and_equals_torch_optim():
    problem = tanh_mlp(dtype=torch.float32)
    schedule = lambda step: 0.1 / (1 + step)  # noqa: E731
    tuner = atf.plain(problem.loss_fn, atf.sgd(momentum=0.9), schedule)
    leaves = {name: p.clone().requires_grad_() for name, p in problem.params.items()}
    twin = torch.optim.SGD(leaves.values(), lr=0.1, momentum=0.9)
    state = start(problem, tuner, {})
    for t, (batch, _) in enumerate(problem.batches):
        assert float(state.hparams["lr"]) == pytest.approx(0.1 / (1 + t))
        state, _ = tuner.step(state, batch)
        twin.param_groups[0]["lr"] = 0.1 / (1 + t)
        twin.zero_grad()
        problem.loss_fn(leaves, {}, batch)[0].backward()
        twin.step()
    for name, leaf in leaves.items():
        torch.testing.assert_close(state.params[name], leaf.detach())
