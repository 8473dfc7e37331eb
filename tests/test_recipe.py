"""The recipe is its parts, resumes bit for bit, and cools down by plan or when told to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import adatune_func as atf
from adatune_func import data, networks
from adatune_func.trees import tree_leaves
from tests.cases import conv_batchnorm, start, tanh_mlp

DUE = atf.windows(3, 2, 5)


def same(one, two):
    pairs = zip(tree_leaves(one), tree_leaves(two), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def open_run(dtype=torch.float64):
    run = tanh_mlp(steps=12, dtype=dtype)
    its = atf.recipe(run.loss_fn, atf.sgd(momentum=0.9), due=DUE)
    return run, its, start(run, its.tuner, {"lr": 0.01})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_end_that_is_told_later(dtype):
    run, its, state = open_run(dtype)
    seen = []
    for t, batches in enumerate(run.batches):
        if t == 4:
            state = atf.cool_down(state, 5)
        seen.append(float(atf.effective_lr(state) / state.hparams["lr"]))
        state, _ = its.step(t, state, *batches)
    assert seen == pytest.approx([1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0], rel=1e-6)


def test_learning_rates_by_prefix_cool_down_together():
    run = tanh_mlp(steps=3)
    its = atf.recipe(run.loss_fn, atf.by_prefix(atf.sgd()), steps=3, due=DUE)
    state = start(run, its.tuner, {"lr": {"": 0.01, "0": 0.02}})
    for t, batches in enumerate(run.batches):
        state, info = its.step(t, state, *batches)
        assert info.accepted
    lrs = atf.effective_lr(state)
    assert set(lrs) == {"", "0"} and all(float(lr) == 0 for lr in lrs.values())


def test_the_recipe_is_its_parts():
    run = tanh_mlp(steps=12)
    its = atf.recipe(run.loss_fn, atf.adamw(), steps=12, due=DUE)
    optimizer = atf.averaged(atf.scheduled(atf.adamw(), atf.shapes.cooldown(12)), 20)
    tuner = atf.marthe(run.loss_fn, optimizer, bound=atf.begin_again(1.5))
    one = two = start(run, tuner, {"lr": 1e-3})
    for t, (batch, val_batch) in enumerate(run.batches):
        one, seen = its.step(t, one, batch, val_batch)
        two, told = tuner.step(two, batch, val_batch) if DUE(t) else tuner.train(two, batch)
        assert same((one, seen), (two, told))
        if DUE(t):  # what is told is of the model to use
            loss = run.loss_fn(its.model(one).params, {}, val_batch)[0]
            assert float(seen.val_loss) == pytest.approx(float(loss), rel=1e-12)
    assert not same(its.model(one).params, one.params)


def test_the_model_has_running_statistics_of_its_own():
    run = conv_batchnorm()
    its = atf.recipe(run.loss_fn, atf.sgd(), due=DUE)
    state = start(run, its.tuner, {"lr": 0.01})
    for t, batches in enumerate(run.batches):
        state, _ = its.step(t, state, *batches)
    batches = [batch for batch, _ in run.batches]
    want = atf.recalibrate(run.loss_fn, atf.averages(state), batches)
    assert same(its.model(state, batches), want)
    assert not same(its.model(state).buffers, want.buffers)
    assert same(its.model(state), atf.averages(state))


@pytest.mark.parametrize("stop", [2, 5, 7, 8])
def test_a_run_is_its_state_and_t(tmp_path, stop):
    """Saved within a window, at its ends, between two, and gone on with in a new process's step."""
    run, its, state = open_run(torch.float32)
    for t, batches in enumerate(run.batches):
        if t == stop:
            atf.save(state, tmp_path / "c.pt", {"t": t})
        state, _ = its.step(t, state, *batches)
    _, again, like = open_run(torch.float32)
    resumed = atf.load(tmp_path / "c.pt", like)
    for t in range(atf.checkpoint.notes(tmp_path / "c.pt")["t"], 12):
        resumed, _ = again.step(t, resumed, *run.batches[t])
    assert same(state, resumed)


@pytest.mark.compiles
@pytest.mark.parametrize("compiler", ["jit", "torch.compile"])
def test_two_graphs_for_the_whole_run(compiler):
    run, made = tanh_mlp(steps=8), []

    def wrap(fn):
        if compiler == "jit":
            return atf.jit(fn, backend=lambda graph, _: made.append(graph) or graph.forward)
        made.append(fn)
        return torch.compile(fn, fullgraph=True, backend="eager")

    due = atf.windows(1, 1, 3)
    eager, compiled = (
        atf.recipe(run.loss_fn, atf.sgd(momentum=0.9), due=due, wrap=its)
        for its in (lambda fn: fn, wrap)
    )
    one = two = start(run, eager.tuner, {"lr": 0.01})
    with torch._dynamo.config.patch(error_on_recompile=True):
        for t, batches in enumerate(run.batches):
            one, two = (atf.cool_down(s, 4) if t == 4 else s for s in (one, two))
            one, _ = eager.step(t, one, *batches)
            two, _ = compiled.step(t, two, *batches)
    assert len(made) == 2 and atf.effective_lr(two) == 0
    for a, b in zip(tree_leaves(one), tree_leaves(two), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lr", [1e-5, 1.0])
def test_it_learns_digits_from_a_start_that_is_far_off(lr):
    images = data.load("digits", "data")
    torch.manual_seed(0)
    model = networks.MLP((32,))
    loss_fn, params, buffers = atf.functionalize(model, F.cross_entropy)
    its = atf.recipe(loss_fn, atf.sgd(momentum=0.9), steps=180, due=atf.windows(100, 10, 40))
    state = its.init(params, {"lr": lr}, buffers)
    pairs = zip(
        data.train_batches(images, 64, seed=0),
        data.validation_batches(images, 64, seed=0),
        strict=False,
    )
    for t, (batch, val_batch) in zip(range(180), pairs, strict=False):
        state, _ = its.step(t, state, batch, val_batch)
    atf.write_back(model, its.model(state))
    (x, y), *_ = data.in_order(images.test, 300)
    right = (model(data.normalize(x, images.mean, images.std)).argmax(1) == y).float().mean()
    assert right > 0.93, (float(right), float(state.hparams["lr"]))
