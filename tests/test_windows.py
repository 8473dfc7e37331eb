"""Tuned steps between steps that only train: when, what passes from one to the other, exact h."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import adatune_func as atf
from adatune_func.trees import tree_leaves, tree_map
from tests import reference
from tests.cases import (
    METHODS,
    OPTIMIZERS,
    PROBLEMS,
    conv_batchnorm,
    start,
    tanh_mlp,
    tunable,
)


def same(one, two):
    return all(map(torch.equal, tree_leaves(one), tree_leaves(two)))


@pytest.mark.parametrize(
    ("numbers", "want"),
    [
        ((0, 1, 1), "TTTTTTTTTTTT"),
        ((3, 0, 1), "TTT........."),
        ((3, 1, 4), "TTT...T...T."),
        ((1, 2, 3), "T.TT.TT.TT.T"),
        ((0, 3, 3), "TTTTTTTTTTTT"),
    ],
)
def test_when_to_tune(numbers, want):
    due = atf.windows(*numbers)
    assert "".join(".T"[due(t)] for t in range(12)) == want


def test_a_step_is_told_which_it_is():
    problem = tanh_mlp(steps=1)
    step = atf.windowed(atf.rtho(problem.loss_fn, atf.sgd()), atf.windows(1, 1, 1))
    wrong: Any = step
    with pytest.raises(TypeError, match=r"begins with the step's number, .* got tuple"):
        wrong(problem.batches[0], (), ())


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((-1, 1, 2), "first must be a whole number from 0 up, got -1"),
        ((1, 1.0, 2), "length must be a whole number from 0 up, got 1.0"),
        ((1, True, 2), "length must be a whole number"),
        ((1, 3, 2), "length must be at most every"),
        ((1, 0, 0), "every at least 1"),
    ],
)
def test_what_is_no_window_is_said(numbers, words):
    with pytest.raises(ValueError, match=words):
        atf.windows(*numbers)


@pytest.mark.parametrize("method", METHODS)
def test_a_window_without_gaps_is_the_step_bit_for_bit(method):
    run = conv_batchnorm(dtype=torch.float32)
    tuner = METHODS[method](run.loss_fn, OPTIMIZERS["adam"], atf.exact)
    step = atf.windowed(tuner, atf.windows(0, 1, 1))
    one = two = start(run, tuner, {"lr": 0.005})
    for t, batches in enumerate(run.batches):
        one, seen = tuner.step(one, *batches)
        two, told = step(t, two, *batches)
        assert same((one, seen), (two, told))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_that_only_trains_leaves_the_rest_as_it_is(method):
    run = conv_batchnorm()
    tuner = METHODS[method](run.loss_fn, OPTIMIZERS["sgd_nesterov"], atf.exact)
    plain = atf.plain(run.loss_fn, OPTIMIZERS["sgd_nesterov"])
    state, _ = tuner.step(start(run, tuner, {"lr": 0.005}), *run.batches[0])
    twin = start(run, plain, {"lr": float(state.hparams["lr"])})
    twin = twin._replace(params=state.params, opt_state=state.opt_state, buffers=state.buffers)
    for batch, _ in run.batches:
        before = tree_map(torch.clone, state)
        after, info = tuner.train(state, batch)
        twin, twins = plain.step(twin, batch)
        assert same(before, state), "the state it was given"
        assert same(after[:3], twin[:3])  # params, buffers, opt_state
        assert info.accepted and info.loss == twins.loss
        moved = {"params", "buffers", "opt_state", "tuning"}
        for name in set(state._fields) - moved:
            assert same(getattr(after, name), getattr(before, name)), name
        assert float(info.hypergrads["lr"]) == float(info.snr["lr"]) == 0
        assert after.tuning == 0
        state = after


def test_a_step_that_only_trains_has_the_guard_too():
    run = tanh_mlp()
    tuner = atf.marthe(run.loss_fn, atf.sgd())
    state, _ = tuner.step(start(run, tuner, {"lr": 0.01}), *run.batches[0])
    (x, y), _ = run.batches[1]
    after, info = tuner.train(state, (x * float("nan"), y))
    assert not info.accepted and same(after, state)  # ``tuning`` too: Z is still that of w
    far = state._replace(hparams={"lr": torch.tensor(1e4, dtype=torch.float64)})
    after, info = tuner.train(far, (x, y))
    assert not info.accepted and float(after.hparams["lr"]) < 1e3
    assert same(after.params, far.params)
    fixed = atf.plain(run.loss_fn, atf.sgd())
    assert fixed.train(start(run, fixed, {"lr": 1e4}), (x, y))[1].accepted


@pytest.mark.parametrize("outer", ["validation", "next_batch"])
def test_what_z_was_before_the_gap_does_not_matter(outer):
    run = tanh_mlp(steps=6)
    tuner = atf.rtho(run.loss_fn, OPTIMIZERS["adam"], outer=outer)
    state = start(run, tuner, {"lr": 0.01})
    for batches in run.batches[:3]:
        state, _ = tuner.step(state, *batches)
    state, _ = tuner.train(state, run.batches[3][0])
    wild = state._replace(z=tree_map(lambda leaf: leaf * float("nan"), state.z))
    none = state._replace(z=tree_map(torch.zeros_like, state.z))
    ends = []
    for it in (state, wild, none):
        it, first = tuner.step(it, *run.batches[4])
        ends.append((it, first, tuner.step(it, *run.batches[5])[1]))
    assert same(ends[0], ends[1]) and same(ends[0], ends[2])
    assert float(ends[0][2].hypergrads["lr"]) != 0
    if outer == "next_batch":
        assert float(ends[0][1].hypergrads["lr"]) == 0


def forget(size, path):
    """As ``begin_again`` but for what is short: these problems have nothing that is too long."""
    return (size > 0.8 * path).double()


BOUNDS = {"none": None, "cut": atf.cut(0.7), "forget": forget}


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("averaged", [False, True], ids=["at w", "averaged"])
@pytest.mark.parametrize("shape", [False, True], ids=["", "shape"])
@pytest.mark.parametrize("problem", ["tanh_mlp", "conv_batchnorm"])
def test_h_of_a_window_is_reverse_mode_through_it(problem, shape, averaged, bound):
    run = PROBLEMS[problem](steps=18)
    optimizer = OPTIMIZERS["scheduled" if shape else "sgd_momentum"]
    optimizer = atf.averaged(optimizer, 3) if averaged else optimizer
    hparams = {"lr": 0.1, "momentum": 0.8}
    tuner = atf.marthe(
        run.loss_fn, optimizer, mu=0.95, hyper_update=atf.additive(0.0), bound=BOUNDS[bound]
    )
    state, kept, info, begin = start(run, tuner, hparams), [], None, None
    step = atf.windowed(tuner, atf.windows(3, 10, 15))
    for t, batches in enumerate(run.batches):
        begin = state if t == 8 else begin
        state, info = step(t, state, *batches)
        kept.append(info.kept)
    window = run._replace(batches=run.batches[8:])
    assert info is not None
    for name, h in info.hypergrads.items():
        shares = [float(share[name]) for share in kept[8:]]
        want = reference.reverse_mode(window, optimizer, hparams, 0.95, begin, shares)[name]
        torch.testing.assert_close(h, want, rtol=1e-9, atol=1e-13)
        fell = sum(share < 1 for share in shares[:-1])  # the last share is for a step to come
        assert (fell == 0) if bound == "none" else (0 < fell < 9 or name == "momentum"), shares


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_bounded_tangent_is_no_longer_than_its_path(optimizer):
    """Against a loop that takes sizes and paths from the states, hyperparameter by name."""
    run, optimizer = tanh_mlp(steps=8), OPTIMIZERS[optimizer]
    hparams, kappa = tunable(optimizer), 0.4
    free, bound = (
        atf.rtho(run.loss_fn, optimizer, hyper_update=atf.additive(0.0), bound=bound)
        for bound in (None, atf.cut(kappa))
    )
    state = start(run, bound, hparams)
    path, shorter = dict.fromkeys(hparams, 0.0), set()
    for batches in run.batches:
        longer, _ = free.step(state, *batches)
        after, info = bound.step(state, *batches)
        way = torch.cat([(after.params[n] - state.params[n]).flatten() for n in state.params])
        for k, name in enumerate(sorted(hparams)):
            slope = 1 - hparams[name] if name in ("momentum", "beta1", "beta2") else hparams[name]
            column = torch.cat([leaf[k].flatten() for leaf in tree_leaves(longer.z.params)])
            path[name] += float(way.norm())
            share = min(1.0, kappa * path[name] / max(slope * float(column.norm()), 1e-300))
            assert float(info.kept[name]) == pytest.approx(share, rel=1e-12)
            shorter |= {name} if share < 1 else set()
            for cut, whole in zip(tree_leaves(after.z), tree_leaves(longer.z), strict=True):
                torch.testing.assert_close(cut[k], share * whole[k], rtol=1e-12, atol=0)
        state = after
    assert "lr" in shorter


def quadratic(lr):
    """Twenty steps of gradient descent on a loss with curvatures 1 to 4, and the shares left."""
    scale = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)

    def loss_fn(params, buffers, batch):
        return (scale * (params["w"] - batch).square()).sum() / 2, buffers

    rule = atf.additive(0.0)
    bound = atf.begin_again(1 + 1e-12)
    # "next_batch" has no guard on the outer loss, which explodes past the edge
    tuner = atf.marthe(loss_fn, atf.sgd(), hyper_update=rule, bound=bound, outer="next_batch")
    state, shares = tuner.init({"w": torch.ones_like(scale)}, {"lr": lr}), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        batch = 0.1 * torch.randn(3, dtype=torch.float64, generator=generator)
        state, info = tuner.step(state, batch)
        shares.append(float(info.kept["lr"]))
    return shares


@pytest.mark.parametrize("lr", [0.01, 0.1, 0.25, 0.49])
def test_below_the_edge_of_stability_nothing_is_too_long(lr):
    assert quadratic(lr) == [1.0] * 20


@pytest.mark.parametrize("lr", [0.6, 1.0])
def test_past_it_something_is(lr):
    assert {*quadratic(lr)} == {0.0, 1.0}


def test_one_column_begins_again_and_the_other_goes_on():
    run = tanh_mlp()
    low = lambda size, path: torch.stack([torch.zeros_like(size[0]), torch.ones_like(size[1])])  # noqa: E731
    tuner = atf.rtho(run.loss_fn, OPTIMIZERS["sgd_momentum"], bound=low)
    state = start(run, tuner, {"lr": 0.1, "momentum": 0.5})
    for batches in run.batches[:3]:
        state, info = tuner.step(state, *batches)
        assert (float(info.kept["lr"]), float(info.kept["momentum"])) == (0, 1)
    assert not any(leaf[0].any() for leaf in tree_leaves(state.z))
    assert any(leaf[1].any() for leaf in tree_leaves(state.z))
    assert state.trail.length[0] == 0 < state.trail.length[1]


@pytest.mark.parametrize("bound", [atf.cut(1.0), atf.begin_again(1.5)])
def test_what_is_not_finite_is_forgotten(bound):
    sizes = torch.tensor([float("nan"), float("inf"), 0.0, 1e30, 1.0])
    shares = bound(sizes, torch.tensor([1.0, 1.0, 0.0, 1e38, 1.0]))
    assert shares.tolist() == [0, 0, 1, 1, 1]


def test_a_bound_that_is_none_is_said():
    for kappa in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="kappa must be a positive number"):
            atf.cut(kappa)
    for kappa in (1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="kappa must be a number above 1"):
            atf.begin_again(kappa)
