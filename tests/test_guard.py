"""Null steps: what is refused, what it costs, and that no run stalls."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func import guard
from adatune_func.trees import norm, tree_leaves, tree_map, tree_paths
from tests.cases import OPTIMIZERS, conv_batchnorm, start, tanh_mlp
from tests.hostile import keep

NAN, INF = float("nan"), float("inf")


def same(one, two):
    pairs = zip(tree_leaves(one), tree_leaves(two), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def kept(before, after):
    """Everything but lr and what the guard remembers is as it was."""
    fields = set(before._fields) - {"hparams", "guard_state"}
    return all(same(getattr(before, f), getattr(after, f)) for f in fields)


def trained(tuner, problem, lr):
    state = start(problem, tuner, {"lr": lr})
    for batch, val_batch in problem.batches:
        state, info = tuner.step(state, batch, val_batch)
        assert info.accepted
    return state


@pytest.mark.parametrize("method", [atf.marthe, atf.hd])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_batch_that_is_not_finite_is_skipped_and_lr_is_not_to_blame(value, method):
    problem = conv_batchnorm(steps=2)
    tuner = method(problem.loss_fn, OPTIMIZERS["sgd_momentum"])
    state = trained(tuner, problem, 0.05)
    (x, y), val_batch = problem.batches[0]
    bad = x.clone()
    bad[0, 0, 0, 0] = value
    after, info = tuner.step(state, (bad, y), val_batch)
    assert not info.accepted and same(state, after)
    if method is atf.marthe:
        after, info = tuner.step(state, (x, y), (bad, y))
        assert not info.accepted and same(state, after)
    assert tuner.step(after, (x, y), val_batch)[1].accepted


def test_a_loss_or_gradient_that_is_not_finite_is_skipped():
    problem = tanh_mlp(steps=2)

    def loss_fn(params, buffers, batch):
        x, y, poison = batch
        loss, buffers = problem.loss_fn(params, buffers, (x, y))
        return loss + torch.sqrt(poison * params["0.weight"].square().sum()), buffers

    tuner = atf.marthe(loss_fn, atf.sgd())
    state = start(problem, tuner, {"lr": 0.05})
    (x, y), (vx, vy) = problem.batches[0]
    clean, zero = torch.ones((), dtype=x.dtype), torch.zeros((), dtype=x.dtype)
    state, info = tuner.step(state, (x, y, clean), (vx, vy, clean))
    assert info.accepted
    after, info = tuner.step(state, (x, y, zero), (vx, vy, clean))  # sqrt at 0: loss is finite
    assert torch.isfinite(info.loss) and not info.accepted and same(state, after)


PATIENT = atf.relative(longest=INF)


def test_a_candidate_that_is_not_finite_lowers_lr_and_keeps_the_rest():
    problem, lr = tanh_mlp(), 1e308
    tuner = atf.marthe(problem.loss_fn, OPTIMIZERS["sgd_momentum"])
    state = trained(tuner, problem, 0.02)
    state = state._replace(hparams={"lr": torch.full_like(state.hparams["lr"], lr)})
    after, info = tuner.step(
        state, (1e3 * problem.batches[0][0][0], problem.batches[0][0][1]), problem.batches[0][1]
    )
    assert not info.accepted and kept(state, after)
    assert float(after.hparams["lr"]) == pytest.approx(guard.LOWER[0] * lr)


@pytest.mark.parametrize("method", [atf.marthe, atf.hd])
@pytest.mark.parametrize("lr", [1.0, 1e3, 1e6])
def test_a_step_that_is_too_long_brings_lr_to_the_scale_of_the_weights(lr, method):
    """Half the limit in one refusal, at most four decades down."""
    problem = tanh_mlp()
    tuner = method(problem.loss_fn, OPTIMIZERS["sgd"])
    state = start(problem, tuner, {"lr": lr})
    after, info = tuner.step(state, *problem.batches[0])
    assert not info.accepted and kept(state, after)
    grads = torch.func.grad(lambda p: problem.loss_fn(p, {}, problem.batches[0][0])[0])(
        state.params
    )
    allowed = 0.03 * (1 + norm(state.params)) / norm(grads)
    expected = max(0.5 * float(allowed), 1e-4 * lr)
    assert float(after.hparams["lr"]) == pytest.approx(expected, rel=1e-9)


def test_the_additive_rule_takes_steps_of_any_length():
    problem = tanh_mlp()
    for rule, accepted in ((atf.additive(0.0), True), (atf.relative(), False)):
        tuner = atf.marthe(problem.loss_fn, OPTIMIZERS["sgd"], hyper_update=rule)
        state = start(problem, tuner, {"lr": 1.0})
        state, info = tuner.step(state, *problem.batches[0])
        assert bool(info.accepted) is accepted


def test_a_candidate_whose_outer_loss_explodes_lowers_lr():
    problem = tanh_mlp()
    tuner = atf.marthe(problem.loss_fn, OPTIMIZERS["sgd_momentum"], hyper_update=PATIENT)
    state = trained(tuner, problem, 0.02)
    state = state._replace(hparams={"lr": torch.full_like(state.hparams["lr"], 1e3)})
    after, info = tuner.step(state, *problem.batches[0])
    assert torch.isfinite(info.val_loss) and not info.accepted and kept(state, after)
    low, high = guard.LOWER
    assert low * 1e3 <= float(after.hparams["lr"]) <= high * 1e3


def test_next_batch_refuses_only_what_is_not_finite_and_lowers_lr():
    problem = tanh_mlp()
    tuner = atf.hd(problem.loss_fn, OPTIMIZERS["sgd_momentum"], hyper_update=atf.additive(0.0))
    state = trained(tuner, problem, 0.02)
    state = state._replace(hparams={"lr": torch.full_like(state.hparams["lr"], 1e3)})
    assert tuner.step(state, *problem.batches[0])[1].accepted
    lr = torch.full_like(state.hparams["lr"], 1.5e308)
    state = state._replace(
        hparams={"lr": lr},
        opt_state=state.opt_state._replace(
            momentum_buffer={n: 1e3 * b for n, b in state.opt_state.momentum_buffer.items()}
        ),
    )
    after, info = tuner.step(state, *problem.batches[0])
    assert not info.accepted and kept(state, after)
    assert float(after.hparams["lr"]) < float(lr)


def test_without_a_tuned_lr_only_what_is_not_finite_is_refused():
    problem = tanh_mlp()
    tuner = atf.marthe(problem.loss_fn, atf.sgd(lr=1e3, momentum=0.5))
    state = start(problem, tuner, {"momentum": 0.5})
    _, info = tuner.step(state, *problem.batches[0])
    assert info.accepted and float(info.val_loss) > 100


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum", "adamw"])
@pytest.mark.parametrize("lr", [1e3, 1e8])
def test_a_start_that_is_far_too_high_is_recovered_from(lr, optimizer):
    """A quadratic bowl with minimum 0: plain training at this lr is infinite within a few steps."""
    torch.manual_seed(0)
    scales = torch.tensor([1.0, 0.3, 0.1])

    def loss_fn(params, buffers, batch):
        return (scales * params["w"].square()).sum() + 0 * batch.sum(), buffers

    tuner = atf.marthe(loss_fn, OPTIMIZERS[optimizer])
    state = tuner.init({"w": torch.ones(3)}, {"lr": lr})
    infos = []
    for _ in range(200):
        state, info = tuner.step(state, torch.ones(1), torch.ones(1))
        infos.append(info)
    assert 1 <= sum(not bool(info.accepted) for info in infos) < 40
    assert float(infos[-1].val_loss) < 0.05 * 1.4


@pytest.mark.parametrize(("times", "refused", "left"), [(3.0, 4, 6e-3), (100.0, 9, 1e-8)])
def test_no_run_stalls_on_a_loss_that_stays_high(times, refused, left):
    """Times what is normal: refused, but not for long, and not where w_t was as bad."""
    state = guard.init({"w": torch.zeros(1)})
    yes, no = torch.tensor(True), torch.tensor(False)
    one, high = torch.tensor(1.0), torch.tensor(times)

    def judged(state, loss, val_loss):
        losses = guard.Losses(loss, val_loss, before=loss)
        verdict = guard.judge(no, yes, guard.share_of_rise(state, losses))
        return verdict, guard.learned(state, verdict, losses)

    for _ in range(300):
        verdict, state = judged(state, one, one)
        assert verdict.accepted
    assert judged(state, high, high)[0].accepted
    refusals, lr = 0, 1.0
    while not judged(state, one, high)[0].accepted:
        verdict, state = judged(state, one, high)
        assert verdict.blamed
        refusals, lr = refusals + 1, lr * float(verdict.factor)
    assert refusals == refused and lr > left


def test_the_scale_of_the_loss_does_not_matter():
    def verdicts(scale):
        state = guard.init({"w": torch.zeros(1, dtype=torch.float64)})
        for loss in (1.1, 0.9, 3.5, 1.0, 8.0, 8.0, 8.0, 1.0):
            normal, val_loss = (scale * torch.tensor(x, dtype=torch.float64) for x in (1.0, loss))
            losses = guard.Losses(normal, val_loss, before=normal)
            share = guard.share_of_rise(state, losses)
            verdict = guard.judge(torch.tensor(False), torch.tensor(True), share)
            state = guard.learned(state, verdict, losses)
            yield bool(verdict.accepted)

    assert list(verdicts(1.0)) == list(verdicts(1e-6)) == list(verdicts(1e9))
    assert not all(verdicts(1.0))


@pytest.mark.parametrize("rule", [atf.relative(), atf.additive(1e-9)])
def test_a_start_that_knows_the_training_data_is_no_explosion(rule):
    """Fitted before: the outer loss is far above the training loss from the first step on."""
    torch.manual_seed(0)
    x, y, w = torch.randn(20, 5).double(), torch.randn(20).double(), torch.ones(5).double()
    batch, val_batch = (x, x @ w), (x, y)

    def loss_fn(params, buffers, batch):
        return (batch[0] @ params["w"] - batch[1]).square().mean(), buffers

    tuner = atf.marthe(loss_fn, atf.sgd(), hyper_update=rule)
    state = tuner.init({"w": w + 1e-3}, {"lr": 1e-3})
    for _ in range(20):
        state, info = tuner.step(state, batch, val_batch)
        assert info.accepted and info.val_loss > 100 * info.loss
    assert float(state.hparams["lr"]) > 1e-4


def test_plain_training_keeps_its_lr_and_its_schedule():
    def loss_fn(params, buffers, batch):
        return (batch * params["w"]).square().sum(), buffers

    params, one = {"w": torch.ones(1)}, torch.ones(1)
    tuner = atf.plain(loss_fn, atf.sgd())
    state, info = tuner.step(tuner.init(params, {"lr": 1e38}), 1e3 * one)
    assert not info.accepted and float(state.hparams["lr"]) == pytest.approx(1e38)
    tuner = atf.plain(loss_fn, atf.sgd(), lambda t: 0.1 / (t + 1))
    state, _ = tuner.step(tuner.init(params), NAN * one)
    assert float(state.hparams["lr"]) == pytest.approx(0.05)


def test_lr_is_not_lowered_below_its_domain():
    problem = tanh_mlp()
    rule = atf.relative(domains={"lr": (0.5, 10.0)})
    tuner = atf.marthe(problem.loss_fn, OPTIMIZERS["sgd"], hyper_update=rule)
    state, info = tuner.step(start(problem, tuner, {"lr": 5.0}), *problem.batches[0])
    assert not info.accepted and float(state.hparams["lr"]) == 0.5


def test_a_tangent_that_overflows_is_forgotten_and_training_goes_on():
    problem = tanh_mlp(dtype=torch.float32)
    tuner = atf.marthe(problem.loss_fn, OPTIMIZERS["sgd_momentum"])
    state = trained(tuner, problem, 0.02)
    huge = {name: torch.full_like(z, 3e38) for name, z in state.z.params.items()}
    state = state._replace(z=state.z._replace(params=huge))
    after, info = tuner.step(state, *problem.batches[0])
    assert info.accepted and info.z_reset["lr"]
    assert all(bool((leaf == 0).all()) for leaf in tree_leaves(after.z))
    assert float(after.hparams["lr"]) == float(state.hparams["lr"])
    assert not tuner.step(after, *problem.batches[1])[1].z_reset["lr"]


def test_a_column_that_overflows_alone_is_forgotten():
    """The other column and its hypergradient are what they are without it."""
    problem = tanh_mlp()
    states, h = {}, {}
    for names in (("lr", "momentum"), ("momentum",)):
        tuner = atf.marthe(
            problem.loss_fn, atf.sgd(lr=0.02, momentum=0.5), hyper_update=atf.additive(0.0)
        )
        hparams = {name: {"lr": 0.02, "momentum": 0.5}[name] for name in names}
        state = start(problem, tuner, hparams)
        for t, pair in enumerate(problem.batches):
            if t == 2 and "lr" in names:
                state.z.params["0.weight"][0, 0, 0] = INF
            state, info = tuner.step(state, *pair)
            h[names] = info.hypergrads["momentum"]
            if "lr" in names:
                assert info.accepted and not info.z_reset["momentum"]
                assert bool(info.z_reset["lr"]) is (t == 2)
                assert bool((state.z.params["0.weight"][0] == 0).all()) is (t == 2)
        states[names] = state
    both, alone = states["lr", "momentum"], states["momentum",]
    for mine, other in zip(tree_leaves(both.z), tree_leaves(alone.z), strict=True):
        torch.testing.assert_close(mine[1:], other, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(*h.values(), rtol=1e-12, atol=0)


def test_a_null_step_resets_nothing():
    problem = tanh_mlp(steps=2)
    tuner = atf.marthe(problem.loss_fn, OPTIMIZERS["sgd_momentum"])
    state = trained(tuner, problem, 0.05)
    (x, y), val_batch = problem.batches[0]
    after, info = tuner.step(state, (x * NAN, y), val_batch)
    assert not info.accepted and not info.z_reset["lr"] and same(state.z, after.z)


def test_a_square_root_at_zero_shows_as_a_reset_of_z():
    """An optimizer of the user's own: RMSprop with a plain sqrt, a row that is never looked up."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Tanh(), nn.Linear(8, 3)).double()
    loss_fn, params, buffers = atf.functionalize(model, F.cross_entropy)
    pairs = [
        tuple((torch.randint(5, (6, 2)), torch.randint(3, (6,))) for _ in range(2))
        for _ in range(4)
    ]

    def rmsprop(sqrt):
        def update(grads, square, params, hparams):
            square = tree_map(lambda s, g: 0.9 * s + 0.1 * g * g, square, grads)
            step = tree_map(lambda g, s: -hparams["lr"] * g / (sqrt(s) + 1e-4), grads, square)
            return step, square

        return atf.Optimizer(lambda p: tree_map(torch.zeros_like, p), update, {"lr": 1e-3})

    for sqrt, reset in ((torch.sqrt, True), (atf.safe_sqrt, False)):
        tuner = atf.marthe(loss_fn, rmsprop(sqrt))
        state = tuner.init(params, {"lr": 1e-3}, buffers)
        for batch, val_batch in pairs:
            state, info = tuner.step(state, batch, val_batch)
            assert info.accepted and bool(info.z_reset["lr"]) is reset
        assert (float(state.hparams["lr"]) == 1e-3) is reset


def test_plain_training_has_no_tangent_to_reset():
    problem = tanh_mlp(steps=1)
    tuner = atf.plain(problem.loss_fn, atf.sgd())
    for hparams in ({}, {"lr": 0.1, "momentum": 0.9}):
        _, info = tuner.step(start(problem, tuner, hparams), problem.batches[0][0])
        assert info.z_reset == dict.fromkeys(hparams, torch.tensor(False))


@pytest.mark.compiles
def test_the_guard_compiles_into_one_graph():
    problem = tanh_mlp()
    tuner = atf.marthe(problem.loss_fn, OPTIMIZERS["sgd_momentum"])
    step = atf.jit(tuner.step, backend="aot_eager")
    one = two = start(problem, tuner, {"lr": 1e3})
    outcomes = set()
    for batch, val_batch in 8 * problem.batches:
        one, info = tuner.step(one, batch, val_batch)
        two, again = step(two, batch, val_batch)
        assert info.accepted == again.accepted
        outcomes.add(bool(info.accepted))
        torch.testing.assert_close(one.hparams, two.hparams, rtol=1e-8, atol=0)
    assert outcomes == {True, False}


KINDS = ("nan", "shuffled labels", "constant inputs", "tiny inputs", "huge inputs")
MEMBERS = [(kind, lr, seed) for kind in KINDS for lr in (1e3, 0.1) for seed in range(5)]
TUNERS = {
    "marthe": atf.marthe,
    "marthe, hyper_lr 1e3": lambda *a: atf.marthe(*a, hyper_update=atf.additive(1e3, alpha=1.0)),
    "rtho": atf.rtho,
    "hd": atf.hd,
    "hd, hyper_lr 1e3": lambda *a: atf.hd(*a, hyper_update=atf.additive(1e3, alpha=1.0)),
}
SETTINGS = [(tuner, optimizer) for tuner in TUNERS for optimizer in ("sgd_nesterov", "adamw")]


def draw(kind, teacher):
    """A batch of 16: hostile inputs, in NaN's case one batch of a hundred."""
    x = torch.randn(16, 10)
    y = torch.randint(4, (16,)) if kind == "shuffled labels" else (x @ teacher).argmax(1)
    scale = {"tiny inputs": 6e-8, "huge inputs": 6e4, "constant inputs": 0.0}.get(kind, 1.0)
    x = scale * x + (kind == "constant inputs")
    return torch.full_like(x, NAN) if kind == "nan" and torch.rand(()) < 0.01 else x, y


def hostile(name, optimizer, members, steps):
    """Runs side by side, one a member: what was refused, and what went wrong at any step."""
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4))
    loss_fn, _, _ = atf.functionalize(model, F.cross_entropy)
    tuner = TUNERS[name](loss_fn, OPTIMIZERS[optimizer])
    hparams = {"weight_decay": 1e-3}
    hparams |= {"momentum": 0.9} if optimizer.startswith("sgd") else {"beta1": 0.9, "beta2": 0.99}
    states, teacher = [], torch.randn(10, 4)
    for _, lr, seed in members:
        torch.manual_seed(seed)
        model.apply(lambda m: m.reset_parameters() if isinstance(m, nn.Linear) else None)
        states.append(tuner.init(dict(model.named_parameters()), {"lr": lr, **hparams}))
    state = tree_map(lambda *leaves: torch.stack(leaves), *states)
    step = torch.func.vmap(tuner.step)
    refused = torch.zeros(len(members), dtype=torch.long)
    wrong = [set() for _ in members]
    for _ in range(steps):
        pairs = [(draw(kind, teacher), draw(kind, teacher)) for kind, _, _ in members]
        batch, val_batch = tree_map(lambda *leaves: torch.stack(leaves), *pairs)
        state, info = step(state, batch, val_batch)
        refused += ~info.accepted
        for path, leaf in zip(tree_paths(state), tree_leaves(state), strict=True):
            finite = leaf.isfinite().flatten(1).all(1) if leaf.ndim > 1 else leaf.isfinite()
            for i in (~finite).nonzero().flatten().tolist():
                wrong[i].add(f"{path} is not finite")
        for key, eta in state.hparams.items():
            low, high = atf.DOMAINS[key]
            for i in ((eta < low) | (eta > high * (1 + 1e-7))).nonzero().flatten().tolist():
                wrong[i].add(f"{key} = {float(eta[i]):g}")
    return [
        {"tuner": name, "optimizer": optimizer, "kind": kind, "lr": lr, "seed": seed}
        | {"refused": int(refused[i]), "wrong": sorted(map(str, wrong[i]))}
        for i, (kind, lr, seed) in enumerate(members)
    ]


@pytest.mark.parametrize(("tuner", "optimizer"), SETTINGS[::3])
def test_hostile_runs_break_nothing(tuner, optimizer):
    for result in hostile(tuner, optimizer, MEMBERS[::5], steps=12):
        assert result["wrong"] == [], result


@pytest.mark.acceptance
def test_five_hundred_hostile_runs():
    steps = 60
    results = [row for setting in SETTINGS for row in hostile(*setting, MEMBERS, steps)]
    assert len(results) == 500
    assert keep("hostile", results, steps) == []
