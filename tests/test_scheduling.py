"""A scale times a shape, ratios of groups: as torch does it, and ends that are chosen late."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

import adatune_func as atf
from adatune_func import shapes
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import METHODS, start, tanh_mlp
from tests.test_optimizers import gradients, run

STEPS = 30

#: Each shape beside its formula in plain Python.
SHAPES = {
    "cooldown": (shapes.cooldown(STEPS), lambda t: min(1.0, (STEPS - t) / (0.2 * STEPS))),
    "linear": (shapes.linear(STEPS), lambda t: 1 - t / STEPS),
    "cosine": (shapes.cosine(STEPS), lambda t: (1 + math.cos(math.pi * t / STEPS)) / 2),
    "warmup": (shapes.warmup(7), lambda t: min(1.0, (t + 1) / 7)),
    "product": (
        shapes.product(shapes.warmup(7), shapes.cooldown(STEPS, last=0.5)),
        lambda t: min(1.0, (t + 1) / 7) * min(1.0, (STEPS - t) / (0.5 * STEPS)),
    ),
    "staircase": (atf.schedules.staircase(1.0, 9, 0.5), lambda t: 0.5 ** (t // 9)),
    "own": (lambda t: 1 / torch.sqrt(1 + t), lambda t: 1 / math.sqrt(1 + t)),
}


def as_torch(twin, scheduler, leaves, grads):
    for g in grads:
        for name, leaf in leaves.items():
            leaf.grad = g[name].clone()
        twin.step()
        scheduler.step()


def same(params, leaves):
    for name, leaf in leaves.items():
        torch.testing.assert_close(params[name], leaf.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_thirty_steps_equal_torch_with_its_scheduler(shape):
    ours, formula = SHAPES[shape]
    first, *grads = gradients(STEPS)
    pairs: list[tuple[Any, Any, dict[str, float]]] = [
        (atf.sgd, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        (atf.adamw, torch.optim.AdamW, {"weight_decay": 0.1}),
    ]
    for make, theirs, words in pairs:
        leaves = {name: p.clone().requires_grad_() for name, p in first.items()}
        twin = theirs(leaves.values(), lr=0.03, **words)
        as_torch(twin, LambdaLR(twin, formula), leaves, grads)
        optimizer = atf.scheduled(make(lr=0.03, **words), ours)
        same(run(optimizer, first, grads, optimizer.hparams), leaves)


def test_ratios_equal_torch_param_groups():
    """A head with 10 lr, no decay on what is no matrix, under one schedule."""
    first, *grads = gradients(STEPS)
    leaves = {name: p.clone().requires_grad_() for name, p in first.items()}
    twin = torch.optim.AdamW(
        [
            {"params": [leaves["a"]], "lr": 0.3, "weight_decay": 0.1},
            {"params": [leaves["b"], leaves["c"]], "lr": 0.03, "weight_decay": 0.0},
        ]
    )
    as_torch(twin, LambdaLR(twin, SHAPES["product"][1]), leaves, grads)
    grouped = atf.by_ratio(
        atf.adamw(lr=0.03, weight_decay=0.1),
        lr={"": 1.0, "a": 10.0},
        weight_decay={"": 0.0, "a": 1.0},
    )
    for optimizer in (
        atf.scheduled(grouped, SHAPES["product"][0]),
        atf.by_ratio(
            atf.scheduled(atf.adamw(lr=0.03, weight_decay=0.1), SHAPES["product"][0]),
            lr={"": 1.0, "a": 10.0},
            weight_decay={"": 0.0, "a": 1.0},
        ),
    ):
        same(run(optimizer, first, grads, optimizer.hparams), leaves)


def rolled(tuner, state, batches):
    lrs, info = [], None
    for batch, val_batch in batches:
        lrs.append(float(atf.effective_lr(state)))
        state, info = tuner.step(state, batch, val_batch)
    return state, lrs, info


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: atf.averaged(o, 4.0)])
def test_an_open_end_cools_down_when_told_to(wrap, tmp_path):
    """As if the end had been known: values and h, and over a checkpoint in the middle."""
    problem = tanh_mlp(steps=20)
    rule = atf.additive(0.0)

    def tuner(shape):
        scheduled = atf.scheduled(atf.sgd(momentum=0.9), shape)
        return atf.marthe(problem.loss_fn, wrap(scheduled), mu=1.0, hyper_update=rule)

    known, late = tuner(shapes.cooldown(20, last=0.4)), tuner(shapes.warmup(1))
    want, lrs, info = rolled(known, start(problem, known, {"lr": 0.1}), problem.batches)
    assert lrs == pytest.approx([0.1] * 12 + [0.1 * k / 8 for k in range(8, 0, -1)], rel=1e-14)
    state, before, _ = rolled(late, start(problem, late, {"lr": 0.1}), problem.batches[:12])
    kept = tree_map(torch.clone, state)
    told = atf.cool_down(state, 8)
    torch.testing.assert_close(state, kept, rtol=0, atol=0)  # the state passed in is left alone
    middle, during, _ = rolled(late, told, problem.batches[12:15])
    atf.save(middle, tmp_path / "c.pt")
    middle = atf.load(tmp_path / "c.pt", like=start(problem, late, {"lr": 0.7}))
    got, after, last = rolled(late, middle, problem.batches[15:])
    assert before + during + after == pytest.approx(lrs, rel=1e-14)
    assert info is not None and last is not None
    torch.testing.assert_close(last.hypergrads, info.hypergrads, rtol=1e-11, atol=0)
    torch.testing.assert_close(got.params, want.params, rtol=1e-13, atol=1e-15)
    assert float(atf.effective_lr(got)) == pytest.approx(0.0, abs=1e-16)


def test_a_scale_by_prefix_is_scaled_value_by_value():
    problem = tanh_mlp(steps=3)
    hparams = {"lr": {"": 0.1, "0": 0.2}}
    shape = shapes.linear(4)
    states = []
    for optimizer in (
        atf.scheduled(atf.by_prefix(atf.sgd()), shape),
        atf.by_prefix(atf.scheduled(atf.sgd(), shape)),
    ):
        tuner = atf.marthe(problem.loss_fn, optimizer, hyper_update=atf.additive(1e-3))
        state = start(problem, tuner, hparams)
        for batch, val_batch in problem.batches:
            state, _ = tuner.step(state, batch, val_batch)
        lr, factor = state.hparams["lr"], 0.25
        torch.testing.assert_close(
            atf.effective_lr(state), tree_map(lambda lr, f=factor: f * lr, lr)
        )
        states.append(state)
    torch.testing.assert_close(states[0].params, states[1].params, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(states[0].hparams, states[1].hparams, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shape_may_have_no_derivative(dtype):
    """Nothing of the clock has a tangent: √t at 0 and ⌊t⌋ pass, and dtypes stay."""
    params = {"w": torch.ones(3, dtype=dtype)}
    loss_fn = lambda p, b, batch: ((p["w"] * batch).square().sum(), b)  # noqa: E731
    optimizer = atf.scheduled(atf.sgd(), lambda t: 1 / (1 + torch.sqrt(t)) - (t // 5) / 9)
    tuner = atf.rtho(loss_fn, optimizer, hyper_update=atf.additive(1e-4))
    state = tuner.init(params, {"lr": 0.01})
    for _ in range(2):
        after, info = tuner.step(state, torch.ones(3, dtype=dtype), torch.ones(3, dtype=dtype))
        assert info.accepted and not info.z_reset["lr"] and info.hypergrads["lr"] != 0
        for old, new in zip(tree_leaves(state), tree_leaves(after), strict=True):
            assert (old.shape, old.dtype) == (new.shape, new.dtype)
        state = after


@pytest.mark.compiles
def test_one_graph_also_after_a_cool_down_began():
    problem = tanh_mlp(steps=4)
    scheduled = atf.scheduled(atf.adamw(eps=1e-4), shapes.cooldown(3))
    optimizer = atf.by_ratio(scheduled, lr={"": 1.0, "0": 2.0}, weight_decay={"": 0.0, "2": 1.0})
    tuner = METHODS["marthe"](problem.loss_fn, optimizer, atf.exact)
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = atf.jit(tuner.step, backend=backend)
    one = two = start(problem, tuner, {"lr": 0.05})
    for i, (batch, val_batch) in enumerate(problem.batches):
        if i == 2:
            one, two = atf.cool_down(one, 3), atf.cool_down(two, 3)
        one, _ = tuner.step(one, batch, val_batch)
        two, _ = compiled(two, batch, val_batch)
    assert len(graphs) == 1
    for a, b in zip(tree_leaves(one), tree_leaves(two), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_errors_say_what_to_do():
    no_lr = atf.Optimizer(lambda p: (), lambda g, s, p, h: (g, s), {"rate": 0.1})
    with pytest.raises(ValueError, match="scheduled needs a hyperparameter lr; the optimizer has"):
        atf.scheduled(no_lr, shapes.warmup(3))
    problem = tanh_mlp(steps=1)
    for wrong in (lambda t: 0.5, lambda t: torch.ones(2)):
        tuner = atf.marthe(problem.loss_fn, atf.scheduled(atf.sgd(), wrong))
        with pytest.raises(TypeError, match="a shape must give a 0-d tensor"):
            start(problem, tuner, {"lr": 0.1})
    plain = atf.plain(problem.loss_fn, atf.sgd())
    state = start(problem, plain, {"lr": 0.1})
    for ask in (atf.effective_lr, lambda s: atf.cool_down(s, 5)):
        with pytest.raises(ValueError, match=r"wrap the optimizer in scheduled\(...\)"):
            ask(state)
    tuner = atf.plain(problem.loss_fn, atf.scheduled(atf.sgd(), shapes.warmup(3)))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        atf.cool_down(start(problem, tuner, {}), 0)
    with pytest.raises(KeyError, match="give lr to init"):
        atf.effective_lr(start(problem, tuner, {}))
    with pytest.raises(ValueError, match="no hyperparameter 'rate'; it has lr"):
        atf.by_ratio(atf.sgd(), rate={"": 1.0})
    with pytest.raises(ValueError, match=r"lr\['a'\] must be a finite ratio"):
        atf.by_ratio(atf.sgd(), lr={"": 1.0, "a": -1.0})
    for ratios, message in (
        ({"0": 1.0}, "lr has no prefix for the parameter '2.weight'"),
        ({"": 1.0, "head": 2.0}, r"no parameter takes lr\['head'\]"),
    ):
        tuner = atf.marthe(problem.loss_fn, atf.by_ratio(atf.sgd(), lr=ratios))
        with pytest.raises(ValueError, match=message):
            start(problem, tuner, {"lr": 0.1})
    with pytest.raises(ValueError, match=r"last must lie in \(0, 1\]"):
        shapes.cooldown(10, last=0.0)


@pytest.mark.parametrize("wrap", [lambda fn: fn, lambda fn: atf.jit(fn, backend="eager")])
@pytest.mark.parametrize("tuned", [True, False])
def test_a_null_step_takes_time(tuned, wrap):
    """A run of so many calls is over with its shape, whatever was refused in it."""
    problem = tanh_mlp(steps=STEPS)
    optimizer = atf.averaged(atf.scheduled(atf.adamw(), shapes.linear(STEPS)))
    tuner = atf.marthe(problem.loss_fn, optimizer)
    state = tuner.init(problem.params, {"lr": 1e-3}, problem.buffers)
    step = wrap(tuner.step if tuned else lambda state, batch, _: tuner.train(state, batch))
    refused = []
    for t, (batch, val_batch) in enumerate(problem.batches):
        before = state
        batch = (batch[0] * torch.nan, batch[1]) if t in (3, 4, STEPS - 1) else batch
        state, info = step(state, batch, val_batch)
        if not info.accepted:  # all else is as it was
            refused.append(t)
            inner, old = state.opt_state.inner, before.opt_state.inner
            assert float(inner.factor) < float(old.factor) and inner.step == old.step + 1
            for a, b in zip(tree_leaves(inner.inner), tree_leaves(old.inner), strict=True):
                assert torch.equal(a, b)
    assert refused == [3, 4, STEPS - 1] and atf.effective_lr(state) == 0
