"""Judged at an average: exact there, trained as without, in words where it cannot be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import tree_leaves, tree_map
from tests import reference
from tests.cases import PROBLEMS, start, tanh_mlp, tunable

OPTIMIZERS = {
    "sgd": atf.averaged(atf.sgd(lr=0.1, momentum=0.9), window=3),
    "adamw, clipped": atf.averaged(
        atf.clip_grad_norm(atf.adamw(lr=0.01, eps=1e-4, weight_decay=1e-2), 0.2), window=7
    ),
    "clipped outside": atf.clip_grads(atf.averaged(atf.sgd(lr=0.1, momentum=0.9)), 0.05),
}


def last_info(run, tuner, hparams):
    state, info = start(run, tuner, hparams), None
    for batches in run.batches:
        state, info = tuner.step(state, *batches)
        assert info.accepted
    assert info is not None
    return state, info


@pytest.mark.parametrize("problem", ["tanh_mlp", "conv_batchnorm"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_hypergradient_is_that_of_the_loss_at_the_average(optimizer, problem):
    run, optimizer = PROBLEMS[problem](steps=20), OPTIMIZERS[optimizer]
    hparams = tunable(optimizer)
    tuner = atf.rtho(run.loss_fn, optimizer, hyper_update=atf.additive(0.0))
    state, info = last_info(run, tuner, hparams)
    want = reference.reverse_mode(run, optimizer, hparams)
    torch.testing.assert_close(
        tree_map(float, info.hypergrads), tree_map(float, want), rtol=1e-9, atol=1e-12
    )
    differences = {n: reference.central_difference(run, optimizer, hparams, n) for n in hparams}
    scale = max(map(abs, differences.values()))
    for name, value in differences.items():
        assert float(info.hypergrads[name]) == pytest.approx(value, rel=1e-5, abs=1e-8 * scale)
    batch = run.batches[-1][1]
    loss, _ = run.loss_fn(atf.averages(state).params, state.buffers, batch)
    assert float(info.val_loss) == pytest.approx(float(loss), rel=1e-12)
    assert float(run.loss_fn(state.params, state.buffers, batch)[0]) != float(loss)


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_discounted_equals_the_sum_of_jacobian_products(mu):
    run, optimizer = tanh_mlp(steps=4), OPTIMIZERS["sgd"]
    hparams = tunable(optimizer)
    tuner = atf.marthe(run.loss_fn, optimizer, mu=mu, hyper_update=atf.additive(0.0))
    _, info = last_info(run, tuner, hparams)
    want = reference.brute_force(run, optimizer, hparams, mu)
    torch.testing.assert_close(
        torch.stack(tree_leaves(info.hypergrads)), want, rtol=1e-10, atol=1e-14
    )


def test_training_itself_is_that_without():
    run, plainly = tanh_mlp(steps=10), atf.sgd(lr=0.1, momentum=0.9)
    window, tuner = 4.0, atf.plain(run.loss_fn, atf.averaged(plainly, 4.0))
    state, twin = start(run, tuner, {}), start(run, atf.plain(run.loss_fn, plainly), {})
    average = run.params
    for batch, _ in run.batches:
        state, _ = tuner.step(state, batch)
        twin, _ = atf.plain(run.loss_fn, plainly).step(twin, batch)
        average = tree_map(lambda a, w: (1 - 1 / window) * a + w / window, average, twin.params)
    torch.testing.assert_close(state.params, twin.params, rtol=0, atol=0)
    torch.testing.assert_close(atf.averages(state).params, average, rtol=1e-12, atol=1e-14)


def test_a_window_of_one_is_no_average():
    run = tanh_mlp(steps=6)
    one, none = (
        last_info(run, atf.marthe(run.loss_fn, optimizer), {"lr": 0.05})
        for optimizer in (atf.averaged(atf.sgd(momentum=0.9), 1), atf.sgd(momentum=0.9))
    )
    torch.testing.assert_close(atf.averages(one[0]).params, none[0].params)
    torch.testing.assert_close(one[1], none[1])


def test_by_prefix_around_it_and_inside_agree():
    run, hparams = tanh_mlp(steps=6), {"lr": {"": 0.1, "0": 0.05}}
    inside, around = (
        last_info(run, atf.rtho(run.loss_fn, optimizer, hyper_update=atf.additive(0.0)), hparams)
        for optimizer in (
            atf.averaged(atf.by_prefix(atf.sgd(momentum=0.9)), 3),
            atf.by_prefix(atf.averaged(atf.sgd(momentum=0.9), 3)),
        )
    )
    torch.testing.assert_close(inside[1].hypergrads, around[1].hypergrads)


def test_check_tangents_looks_at_the_average():
    run = tanh_mlp(steps=5)
    found = atf.check_tangents(
        run.loss_fn, OPTIMIZERS["sgd"], run.params, {"lr": 0.1, "momentum": 0.8}, run.batches
    )
    assert all(row.relative_error < 1e-6 and row.cosine > 1 - 1e-9 for row in found.values())


@pytest.mark.compiles
def test_one_graph():
    run = tanh_mlp(steps=3)
    tuner = atf.marthe(run.loss_fn, atf.averaged(atf.sgd(momentum=0.9)))
    step = atf.jit(tuner.step, backend="eager")
    state = start(run, tuner, {"lr": 0.1})
    torch.testing.assert_close(step(state, *run.batches[0]), tuner.step(state, *run.batches[0]))


def test_the_model_is_written_back_at_the_average():
    model = nn.Linear(3, 2)
    loss_fn, params, buffers = atf.functionalize(model, F.cross_entropy)
    tuner = atf.marthe(loss_fn, atf.averaged(atf.sgd()))
    batch = torch.randn(8, 3), torch.randint(0, 2, (8,))
    state, _ = tuner.step(tuner.init(params, {"lr": 0.1}, buffers), batch, batch)
    atf.write_back(model, atf.averages(state))
    torch.testing.assert_close(
        dict(model.named_parameters()), state.opt_state.average, check_stride=False
    )


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="at least 1 step"):
        atf.averaged(atf.sgd(), window=0.5)
    run = tanh_mlp()
    with pytest.raises(ValueError, match='needs outer="validation"'):
        start(run, atf.hd(run.loss_fn, atf.averaged(atf.sgd())), {"lr": 0.1})
