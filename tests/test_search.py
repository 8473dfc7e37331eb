"""A population is N runs, each what it would be alone."""

from __future__ import annotations

import pytest
import torch

import adatune_func as atf
from adatune_func import search
from adatune_func.options import Outer
from adatune_func.search import find_hyper_lr, stack, sweep, table, unstack
from adatune_func.trees import tree_leaves
from tests.cases import conv_batchnorm, dropout_mlp, tanh_mlp

SGD = atf.sgd(momentum=0.9)


def member(problem, seed=0, lr=0.1, mu=0.9, hyper_lr=1e-3, outer: Outer = "validation"):
    """A state with its own seed, start and numbers, and the tuner that made it."""
    rule = atf.additive(hyper_lr, alpha=1e-6)
    tuner = atf.marthe(problem.loss_fn, SGD, mu=mu, hyper_update=rule, outer=outer)
    torch.manual_seed(seed)
    params = {name: p + 0.1 * torch.randn_like(p) for name, p in problem.params.items()}
    return tuner, tuner.init(params, {"lr": lr}, problem.buffers)


def alone(tuner, state, batches):
    infos = []
    for batch in batches:
        state, info = tuner.step(state, *batch)
        infos.append(info)
    return state, infos


def assert_close(got, want, rtol=1e-9, atol=1e-12):
    for a, b in zip(tree_leaves(got), tree_leaves(want), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("make", [conv_batchnorm, tanh_mlp])
def test_a_sweep_equals_separate_runs(make, loop):
    problem = make(steps=4)
    settings = [{"lr": 0.05}, {"seed": 1, "mu": 0.5}, {"seed": 2, "hyper_lr": 1e-2}]
    members = [member(problem, **setting) for setting in settings]
    result = sweep(members[0][0], [state for _, state in members], problem.batches, loop=loop)
    for i, state in enumerate(unstack(result.state)):
        own_state, own_infos = alone(*members[i], problem.batches)
        assert_close(state, own_state)
        for t, info in enumerate(own_infos):
            assert_close([leaf[t, i] for leaf in tree_leaves(result.infos)], tree_leaves(info))


def test_next_batch_takes_batches_alone():
    problem = tanh_mlp(steps=3)
    tuner, state = member(problem, outer="next_batch")
    batches = [(batch,) for batch, _ in problem.batches]
    result = sweep(tuner, [state, state], batches)
    assert_close(unstack(result.state)[1], alone(tuner, state, batches)[0])


def test_with_dropout_each_member_draws_its_own_mask():
    problem = dropout_mlp(steps=2)
    tuner, state = member(problem)
    torch.manual_seed(0)
    one = sweep(tuner, [state], problem.batches)
    torch.manual_seed(0)
    assert_close(unstack(one.state)[0], alone(tuner, state, problem.batches)[0])
    two = sweep(tuner, [state, state], problem.batches)
    assert (two.infos.loss[:, 0] != two.infos.loss[:, 1]).all()


@pytest.mark.parametrize("loop", [False, True])
def test_a_member_that_diverges_touches_no_other(loop):
    problem = conv_batchnorm(steps=4)
    calm = [member(problem, seed=s) for s in (1, 2)]
    tuner, wild = member(problem, lr=1e200)
    states = [calm[0][1], wild, calm[1][1]]
    result = sweep(tuner, states, problem.batches, loop=loop)
    assert not result.infos.accepted[:, 1].all()
    assert result.infos.accepted[:, [0, 2]].all()
    for i, (own_tuner, state) in zip((0, 2), calm, strict=True):
        assert_close(unstack(result.state)[i], alone(own_tuner, state, problem.batches)[0])


@pytest.mark.parametrize("loop", [False, True])
def test_the_step_is_wrapped_once(loop):
    problem = tanh_mlp(steps=2)
    tuner, state = member(problem)
    wrapped = []

    def wrap(step):
        wrapped.append(step)
        return step

    sweep(tuner, [state] * 2, problem.batches, wrap=wrap, loop=loop)
    assert [step is tuner.step for step in wrapped] == [loop]


def test_the_table_has_a_row_a_member():
    problem = tanh_mlp(steps=10)
    tuner, state = member(problem, lr=0.5)
    result = sweep(tuner, [member(problem, lr=0.05)[1], state], problem.batches)
    rows = table(result, tail=0.3)
    assert [row["lr"] for row in rows] == [0.05, 0.5]
    infos = alone(tuner, state, problem.batches)[1]
    losses = torch.stack([info.val_loss for info in infos]).unfold(0, 3, 1).mean(1)
    assert rows[1]["val_loss"] == pytest.approx(float(losses[-1]), rel=1e-12)
    assert rows[1]["best_val_loss"] == pytest.approx(float(losses.min()), rel=1e-12)
    assert rows[1]["loss"] == pytest.approx(sum(float(i.loss) for i in infos[-3:]) / 3, rel=1e-12)
    assert rows[1]["lr_end"] == float(result.state.hparams["lr"][1])
    assert rows[1]["mu"] == 0.9 and rows[1]["accepted"] == 1.0


def test_errors_in_words():
    problem = tanh_mlp(steps=1)
    tuner, state = member(problem)
    with pytest.raises(ValueError, match="at least one state"):
        sweep(tuner, [], problem.batches)
    with pytest.raises(ValueError, match="at least one batch"):
        sweep(tuner, [state], [])
    other = tuner.init(problem.params, {"lr": 0.1, "momentum": 0.9}, problem.buffers)
    with pytest.raises(ValueError, match="states 0 and 1 differ in structure"):
        stack([state, other])
    wider = state._replace(params={n: torch.stack([p, p]) for n, p in state.params.items()})
    with pytest.raises(ValueError, match=r"has shape .* in state 0 and .* in state 1"):
        stack([state, wider])


@pytest.fixture(scope="module")
def quadratic():
    """SGD on a quadratic, from a learning rate 50 times too small."""

    def loss_fn(params, buffers, batch):
        return 0.5 * (params["w"] * batch).square().sum(), buffers

    scales = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    tuner = atf.marthe(loss_fn, atf.sgd(), mu=0.9, hyper_update=atf.additive(0.0))
    state = tuner.init({"w": torch.ones(3, dtype=torch.float64)}, {"lr": 0.01})
    return tuner, state, [(scales, scales)] * 20


@pytest.fixture(scope="module")
def found(quadratic):
    return find_hyper_lr(*quadratic, members=8)


def test_the_hyper_lr_found_beats_standing_still_and_more_is_worse(quadratic, found):
    _, state, batches = quadratic

    def end(hyper_lr, alpha=0.0):
        moving = atf.marthe(
            lambda p, b, x: (0.5 * (p["w"] * x).square().sum(), b),
            atf.sgd(),
            mu=0.9,
            hyper_update=atf.additive(hyper_lr, alpha),
        )
        start = moving.init(state.params, {"lr": 0.01})
        return float(alone(moving, start, batches)[1][-1].val_loss)

    assert end(found.hyper_lr, found.alpha) < 0.1 * end(0.0)
    tried = {row["hyper_lr.lr"]: row["val_loss"] for row in found.table if row["round"] == 1}
    largest = min(tried, key=lambda beta: abs(beta - 3 * found.hyper_lr["lr"]))
    assert end(largest) == pytest.approx(tried[largest], rel=0.5)
    assert not end(100 * found.hyper_lr["lr"]) < end(found.hyper_lr)


def test_the_search_does_not_depend_on_units(quadratic, found):
    _, state, batches = quadratic
    loud = atf.marthe(  # a loss in other units: h is 1000 times as large, so is what one may take
        lambda p, b, x: (500 * (p["w"] * x).square().sum(), b),
        atf.sgd(),
        mu=0.9,
        hyper_update=atf.additive(0.0),
    )
    other = find_hyper_lr(loud, loud.init(state.params, {"lr": 1e-5}), batches, members=8)
    assert other.hyper_lr["lr"] == pytest.approx(1e-9 * found.hyper_lr["lr"], rel=1e-4)
    assert other.alpha * 1e6 == pytest.approx(found.alpha * 1e-6, rel=1e-4)


def test_the_search_is_a_table(found):
    assert [row["round"] for row in found.table] == [0] * 8 + [1] * 8 + [2] * 8
    assert {"ratio", "alpha", "hyper_lr.lr", "stable", "lr", "lr_end", "val_loss"} <= set(
        found.table[0]
    )
    first = found.table[:8]
    assert first[0]["ratio"] == 0 and first[0]["stable"]
    thrice = pytest.approx(3 * found.hyper_lr["lr"], rel=1e-4)
    assert any(row["hyper_lr.lr"] == thrice for row in found.table[8:16])
    tenfold = pytest.approx(10 * found.alpha)
    assert any(row["alpha"] == tenfold for row in found.table[16:])


def test_the_largest_stable_ratio_near_the_best_is_taken():
    fine = {"lr": 0.1, "lr_end": 0.2, "accepted": 1.0, "mu": 0.0}
    rows = [
        {**fine, "ratio": 0.0, "val_loss": 2.0},
        {**fine, "ratio": 0.1, "val_loss": 1.0},
        {**fine, "ratio": 0.2, "val_loss": 1.04, "accepted": 0.98},
        {**fine, "ratio": 0.3, "val_loss": 1.2},
        {**fine, "ratio": 0.4, "val_loss": 0.1, "lr_end": 0.0},
        {**fine, "ratio": 0.5, "val_loss": 0.1, "accepted": 0.9},
        {**fine, "ratio": 0.6, "val_loss": float("inf")},
        {**fine, "ratio": 0.7, "val_loss": 1.01, "lr": 0.0, "lr_end": 0.0},
    ]
    judged = [row | {"stable": float(search.hyper_lr._stable(row))} for row in rows]
    assert [row["stable"] for row in judged] == [1, 1, 1, 1, 0, 0, 0, 1]
    assert search.hyper_lr._largest(judged[:7], slack=0.05) == 0.2
    assert search.hyper_lr._largest(judged[:7], slack=0.01) == 0.1
    assert search.hyper_lr._largest(judged[:1] + judged[4:7], slack=0.05) == 0


def test_the_search_refuses_in_words(quadratic):
    tuner, state, batches = quadratic
    with pytest.raises(ValueError, match="additive rule"):
        find_hyper_lr(tuner, state._replace(hyper_state=()), batches)
    with pytest.raises(ValueError, match="at least 4 members"):
        find_hyper_lr(tuner, state, batches, members=3)
    with pytest.raises(ValueError, match="at least one batch"):
        find_hyper_lr(tuner, state, [])
