"""The hypergradient is the derivative of the run, for every optimizer and hyperparameter."""

from __future__ import annotations

import pytest
import torch

import adatune_func as atf
from tests import reference
from tests.cases import EXACT_HVPS, HVPS, OPTIMIZERS, PROBLEMS, start, tanh_mlp, tunable


def hypergradient(problem, optimizer, hparams, mu=1.0, hvp=atf.exact):
    """h at the last step of a run with hyper-lr 0: hyperparameters stand still."""
    tuner = atf.marthe(problem.loss_fn, optimizer, mu=mu, hyper_update=atf.additive(0.0), hvp=hvp)
    state = start(problem, tuner, hparams)
    info = None
    for batch, val_batch in problem.batches:
        state, info = tuner.step(state, batch, val_batch)
        assert info.accepted
    assert info is not None
    return {name: float(h) for name, h in info.hypergrads.items()}


def assert_close(got, want, tolerance):
    scale = torch.tensor(list(want.values()), dtype=torch.float64).norm()
    for name in want:
        bound = tolerance * max(abs(float(want[name])), 1e-3 * float(scale))
        assert abs(got[name] - float(want[name])) <= bound, (name, got[name], float(want[name]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_rtho_equals_reverse_mode_and_differences_of_the_run(problem, optimizer):
    run, optimizer = PROBLEMS[problem](steps=50), OPTIMIZERS[optimizer]
    hparams = tunable(optimizer)
    got = hypergradient(run, optimizer, hparams)
    assert_close(got, reference.reverse_mode(run, optimizer, hparams), 1e-9)
    differences = {n: reference.central_difference(run, optimizer, hparams, n) for n in hparams}
    assert_close(got, differences, 1e-5)


@pytest.mark.parametrize("hvp", EXACT_HVPS)
@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("optimizer", ["sgd_nesterov", "sgd_dampening", "adam", "adamw"])
def test_discounted_equals_the_sum_of_jacobian_products(optimizer, mu, hvp):
    run, optimizer = tanh_mlp(steps=4), OPTIMIZERS[optimizer]
    hparams = tunable(optimizer)
    want = reference.brute_force(run, optimizer, hparams, mu)
    got = hypergradient(run, optimizer, hparams, mu=mu, hvp=HVPS[hvp])
    assert_close(got, dict(zip(hparams, want, strict=True)), 1e-10)
    # the two references agree with each other as well
    assert_close(
        reference.reverse_mode(run, optimizer, hparams, mu),
        dict(zip(hparams, want, strict=True)),
        1e-10,
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_first_step_with_next_batch_moves_nothing(optimizer):
    run = tanh_mlp(steps=1)
    rule = atf.additive(1e3, alpha=1.0)
    tuner = atf.rtho(run.loss_fn, OPTIMIZERS[optimizer], hyper_update=rule, outer="next_batch")
    state, info = tuner.step(start(run, tuner, {"lr": 0.1}), run.batches[0][0])
    assert info.hypergrads["lr"] == 0 and info.cosine["lr"] == 0
    assert state.hparams["lr"] == 0.1


def test_mu_zero_forgets_what_is_not_finite():
    z = {"w": torch.tensor([float("inf"), float("nan"), 1.0])}
    assert (atf.recursion.discounted(torch.tensor(0.0), z)["w"] == 0).all()


def test_clip_outer_clips_the_outer_gradient_by_value():
    run = tanh_mlp(steps=2)
    tight, loose = (
        atf.rtho(run.loss_fn, atf.sgd(), hyper_update=atf.additive(0.0), clip_outer=c)
        for c in (1e-4, 1e4)
    )
    infos = [t.step(start(run, t, {"lr": 0.1}), *run.batches[0])[1] for t in (tight, loose)]
    exact = hypergradient(tanh_mlp(steps=1), atf.sgd(), {"lr": 0.1})["lr"]
    assert float(infos[1].hypergrads["lr"]) == pytest.approx(exact, rel=1e-12)
    assert 0 < abs(float(infos[0].hypergrads["lr"])) < 0.1 * abs(exact)


def test_one_hyperparameter_or_several_give_the_same_columns():
    run, optimizer = tanh_mlp(), OPTIMIZERS["adamw"]
    together = hypergradient(run, optimizer, tunable(optimizer))
    for name, value in tunable(optimizer).items():
        alone = hypergradient(run, optimizer, {name: value})
        assert_close(alone, {name: together[name]}, 1e-10)


def test_a_hyperparameter_without_effect_so_far_is_checked_as_right():
    run = tanh_mlp(steps=1)  # the first step takes the gradient whole, whatever the momentum
    hparams = {"lr": 0.1, "momentum": 0.5}
    report = atf.check_tangents(run.loss_fn, atf.sgd(), run.params, hparams, run.batches)
    still = report["momentum"]
    assert (still.hypergrad, still.difference, still.relative_error, still.cosine) == (0, 0, 0, 1)
    assert 0 < report["lr"].relative_error < 1e-6
