"""Hyperparameters inside the training loss: h is the derivative of the run, for every product."""

from __future__ import annotations

import itertools

import pytest
import torch

import adatune_func as atf
from adatune_func import search
from adatune_func.curvature import Gradient, at_values, products_along
from adatune_func.trees import tree_leaves, tree_map
from tests import reference
from tests.cases import HVPS, OPTIMIZERS, start
from tests.loss_cases import LOSSES, loss_problem

STILL = atf.additive(0.0)


def run_of(problem, optimizer, hparams, wrap=lambda step: step, **options):
    """Hypergradients at the end of a run whose hyperparameters stand still, as numbers."""
    options = {"mu": 1.0, "hyper_update": STILL} | options
    tuner = atf.marthe(problem.loss_fn, optimizer, **options)
    state, step, info = start(problem, tuner, hparams), wrap(tuner.step), None
    for batch, val_batch in problem.batches:
        pair = (batch, val_batch) if options.get("outer") != "next_batch" else (batch,)
        state, info = step(state, *pair)
        assert info.accepted
    assert info is not None
    return [float(h) for h in tree_leaves(info.hypergrads)]


def assert_close(got, want, tolerance):
    scale = torch.tensor(want, dtype=torch.float64).norm()
    for one, two in zip(got, want, strict=True):
        assert abs(one - two) <= tolerance * max(abs(two), 1e-3 * float(scale)), (got, want)


def reversed_run(problem, optimizer, hparams, mu=1.0):
    return [float(h) for h in tree_leaves(reference.reverse_mode(problem, optimizer, hparams, mu))]


@pytest.mark.parametrize("optimizer", ["sgd_nesterov", "adamw", "clipped", "muon"])
@pytest.mark.parametrize("name", LOSSES)
def test_h_equals_reverse_mode_and_differences_of_the_run(name, optimizer):
    """Columns of two kinds: lr of the optimizer, and what stands in the loss."""
    problem, optimizer = loss_problem(name, steps=20), OPTIMIZERS[optimizer]
    hparams = {"lr": 0.02, **LOSSES[name][1]}
    got = run_of(problem, optimizer, hparams)
    assert_close(got, reversed_run(problem, optimizer, hparams), 1e-9)
    differences = [
        reference.central_difference(problem, optimizer, hparams, n, i)
        for n in sorted(hparams)
        for i in range(len(tree_leaves(hparams[n])))
    ]
    assert_close(got, differences, 1e-5)


@pytest.mark.parametrize(
    ("hvp", "mu"),
    [
        ("forward_over_reverse", 0.0),
        ("forward_over_reverse", 0.7),
        ("reverse_over_reverse", 0.7),
        ("no_curvature", 0.0),  # exact where nothing is remembered
    ],
)
def test_discounted(hvp, mu):
    """Only what is remembered is discounted, not the mixed term of the step itself."""
    problem, optimizer = loss_problem("penalty", steps=4), OPTIMIZERS["adamw"]
    hparams = {"lr": 0.02, "penalty": 0.01}
    got = run_of(problem, optimizer, hparams, mu=mu, hvp=HVPS[hvp])
    assert_close(got, reversed_run(problem, optimizer, hparams, mu), 1e-9)


def test_the_next_batch_judges_by_the_plain_loss():
    """As validation on the batch that comes next does, one step earlier."""
    problem, optimizer = loss_problem("weight", steps=5), OPTIMIZERS["adamw"]
    hparams = {"lr": 0.02, "weight": 0.3}
    batches = [batch for batch, _ in problem.batches]
    earlier = problem._replace(batches=list(itertools.pairwise(batches)))
    for mu, hvp in ((0.7, atf.exact), (0.0, atf.no_curvature)):
        got = run_of(problem, optimizer, hparams, mu=mu, hvp=hvp, outer="next_batch")
        assert_close(got, run_of(earlier, optimizer, hparams, mu=mu, hvp=hvp), 1e-12)
        assert_close(got, reversed_run(earlier, optimizer, hparams, mu), 1e-9)


def test_hd_moves_them():
    problem = loss_problem("smoothing", steps=3)
    tuner = atf.hd(problem.loss_fn, OPTIMIZERS["sgd"])
    state = start(problem, tuner, {"lr": 0.05, "smoothing": 0.2})
    for batch, _ in problem.batches[:-1]:
        state, _ = tuner.step(state, batch)
    state, info = tuner.step(state, problem.batches[-1][0])
    assert info.val_loss != info.loss and float(info.hypergrads["smoothing"]) != 0
    assert float(state.hparams["smoothing"]) != 0.2


@pytest.mark.parametrize("outer", ["validation", "next_batch"])
def test_an_outer_loss_that_has_them_has_their_direct_term(outer):
    problem, optimizer = loss_problem("penalty", steps=4), OPTIMIZERS["sgd_nesterov"]
    hparams = {"lr": 0.02, "penalty": 0.01}
    own = problem._replace(loss_fn=problem.loss_fn._replace(plain=None))  # the reference's E is L
    got = run_of(problem, optimizer, hparams, val_loss_fn=problem.loss_fn, outer=outer)
    if outer == "next_batch":
        batches = [batch for batch, _ in problem.batches]
        own = own._replace(batches=list(itertools.pairwise(batches)))
    assert_close(got, reversed_run(own, optimizer, hparams), 1e-9)


# Products


def mixed_term(problem, hparams):
    """``∂²L/∂w∂η`` by autograd, one dict of parameters for each η_k."""
    eta = tree_map(lambda v: torch.tensor(v, dtype=torch.float64, requires_grad=True), hparams)
    params = {n: p.clone().requires_grad_() for n, p in problem.params.items()}
    loss_fn, _ = reference.losses_at(problem.loss_fn, eta)
    loss = loss_fn(params, problem.buffers, problem.batches[0][0])[0]
    slopes = torch.autograd.grad(loss, tree_leaves(eta), create_graph=True)
    return [
        dict(
            zip(
                params,
                torch.autograd.grad(s, list(params.values()), retain_graph=True),
                strict=True,
            )
        )
        for s in slopes
    ]


TOLERANCE = {"finite_difference": 3e-6, "central_difference": 1e-8}


@pytest.mark.parametrize(
    ("name", "hvp"),
    [
        (name, hvp)
        for name in ("smoothing", "temperature", "classes")
        for hvp in HVPS
        # a mean over sums of weights is no mean over samples
        if (name, hvp) != ("classes", "accumulated")
    ],
)
def test_every_product_carries_the_mixed_term(name, hvp):
    """``P (Z_k, e_k) = P (Z_k, 0) + ∂²L/∂w∂η_k`` whatever of H the strategy P takes."""
    problem, tolerance = loss_problem(name), TOLERANCE.get(hvp, 1e-10)
    hparams = LOSSES[name][1]
    if hvp == "on_fraction":
        x, y = problem.batches[0][0]
        half = problem._replace(batches=[((x[:8], y[:8]), None)])
    else:
        half = problem
    mixed = mixed_term(half, hparams)
    count = len(mixed)
    z = {n: torch.randn(count, *p.shape, dtype=p.dtype) for n, p in problem.params.items()}
    eta = tree_map(lambda v: torch.tensor(v, dtype=torch.float64), hparams)
    batch, buffers = problem.batches[0][0], problem.buffers
    got = products_along(HVPS[hvp], problem.loss_fn, buffers, problem.params, batch, z, eta)[1]
    grad_fn = Gradient(at_values(problem.loss_fn, eta), buffers)
    plain = HVPS[hvp](grad_fn, problem.params, batch, z)[1]
    for leaf in problem.params:
        want = torch.stack([m[leaf] for m in mixed])
        torch.testing.assert_close(got[leaf] - plain[leaf], want, rtol=tolerance, atol=tolerance)
        assert float(want.norm()) > 1e-3


def test_gauss_newton_names_the_loss_that_it_cannot_look_into():
    problem = loss_problem("penalty")
    with pytest.raises(TypeError, match="has to see where the model ends"):
        run_of(problem, atf.sgd(), {"penalty": 0.01}, hvp=atf.gauss_newton)


@pytest.mark.parametrize("name", ["classes", "tasks"])
def test_a_shared_product_leaves_a_loss_its_own(name):
    """One product for two learning rates, one for each number of the loss, whose h stays exact."""
    problem, steps = loss_problem(name, steps=3), []
    optimizer = atf.by_prefix(atf.sgd(lr=0.1, momentum=0.9))
    hparams = {"lr": {"0": 0.05, "2": 0.02}, **LOSSES[name][1]}
    value = LOSSES[name][1][name]
    given = {"lr": hparams["lr"], name: torch.tensor(value) if name == "classes" else value}

    def counted(grad_fn, params, batch, v):
        steps.append(tree_leaves(v)[0].shape[0])
        return atf.exact(grad_fn, params, batch, v)

    got = run_of(problem, optimizer, hparams, hvp=atf.shared_product(counted, given))
    want = run_of(problem, optimizer, hparams)
    assert steps == [len(value) + 1] * 3
    lr = slice(0, 2) if name == "tasks" else slice(5, 7)  # leaves are sorted by name
    assert sum(got[lr]) == pytest.approx(sum(want[lr]), rel=1e-12) and got[lr] != want[lr]
    del got[lr], want[lr]
    assert_close(got, want, 1e-12)


# Compiled, many at once, kept


@pytest.mark.parametrize("name", ["smoothing", "classes"])
def test_jitted_and_vmapped_are_eager(name):
    problem = loss_problem(name, steps=3)
    tuner = atf.marthe(problem.loss_fn, OPTIMIZERS["adamw"], bound=atf.begin_again())
    states = [start(problem, tuner, {"lr": lr, **LOSSES[name][1]}) for lr in (0.01, 0.02)]
    jitted = atf.jit(tuner.step, backend="eager")
    swept = search.sweep(tuner, states, problem.batches).state
    for i, state in enumerate(states):
        twin = state
        for batches in problem.batches:
            state, _ = tuner.step(state, *batches)
            twin, _ = jitted(twin, *batches)
        moved = [
            x != y
            for x, y in zip(*map(tree_leaves, (state.hparams, states[i].hparams)), strict=True)
        ]
        assert all(moved)
        for other in (twin, search.unstack(swept)[i]):
            for x, y in zip(tree_leaves(state), tree_leaves(other), strict=True):
                torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_a_state_is_kept_and_goes_on(tmp_path):
    problem = loss_problem("classes", steps=3)
    tuner = atf.marthe(problem.loss_fn, atf.sgd())
    state = start(problem, tuner, LOSSES["classes"][1])
    state, _ = tuner.step(state, *problem.batches[0])
    atf.save(state, tmp_path / "state.pt")
    again = atf.load(tmp_path / "state.pt", like=start(problem, tuner, LOSSES["classes"][1]))
    for x, y in zip(
        *(tree_leaves(tuner.step(s, *problem.batches[1])) for s in (state, again)), strict=True
    ):
        assert torch.equal(x, y)
    # from where it stands: a vector in a state is a tuple
    assert tree_leaves(start(problem, tuner, state.hparams).hparams) == tree_leaves(state.hparams)


def test_plain_and_train_take_the_value_that_stands_in_the_state():
    problem = loss_problem("penalty", steps=1)
    batch, val_batch = problem.batches[0]
    marthe, plain = (make(problem.loss_fn, atf.sgd(lr=0.1)) for make in (atf.marthe, atf.plain))
    for value in (0.5, 0.0):
        step = start(problem, marthe, {"penalty": value or 1e-3})
        step = step._replace(hparams={"penalty": torch.tensor(value, dtype=torch.float64)})
        losses = [
            marthe.step(step, batch, val_batch)[1].loss,
            marthe.train(step, batch)[1].loss,
            plain.step(start(problem, plain, {"penalty": value}), batch)[1].loss,
            problem.loss_fn.fn(problem.params, {}, batch, {"penalty": value})[0],
        ]
        assert losses == [losses[-1]] * 4
    assert losses[0] == problem.loss_fn.plain(problem.params, {}, batch)[0]


def test_a_bad_batch_is_a_null_step():
    problem = loss_problem("smoothing", steps=2)
    (x, y), val_batch = problem.batches[0]
    tuner = atf.marthe(problem.loss_fn, OPTIMIZERS["adam"])
    state, _ = tuner.step(start(problem, tuner, {"lr": 0.02, "smoothing": 0.2}), (x, y), val_batch)
    after, info = tuner.step(state, (x * float("nan"), y), val_batch)
    assert not info.accepted
    assert all(map(torch.equal, tree_leaves(state), tree_leaves(after)))
