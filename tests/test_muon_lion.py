"""muon equals torch.optim.Muon and AdamW, lion its paper; the laws have both in their lists."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import adatune_func as atf
from adatune_func.trees import tree_map
from tests.cases import OPTIMIZERS, start, tanh_mlp
from tests.test_optimizers import run

needs_muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9"
)

SHAPES = {"tall": (7, 3), "wide": (3, 7), "square": (5, 5)}
OTHERS = {"embed.weight": (6, 4), "bias": (5,), "conv": (2, 3, 3, 3)}


def drawn(shapes, steps=50):
    generator = torch.Generator().manual_seed(7)
    draw = lambda s: torch.randn(s, generator=generator, dtype=torch.float64)  # noqa: E731
    return [{name: draw(shape) for name, shape in shapes.items()} for _ in range(steps + 1)]


def by_torch(make, first, grads):
    leaves = {name: p.clone().requires_grad_() for name, p in first.items()}
    twin = make(list(leaves.values()))
    for g in grads:
        for name, leaf in leaves.items():
            leaf.grad = g[name].clone()
        twin.step()
    return {name: leaf.detach() for name, leaf in leaves.items()}


@needs_muon
@pytest.mark.parametrize("rounded", [False, True], ids=["float64", "bfloat16"])
@pytest.mark.parametrize(
    "words",
    [
        {},
        {"adjust_lr_fn": "original", "weight_decay": 0.2},
        {"momentum": 0.8, "nesterov": False},
        {"ns_steps": 6},
        {"ns_coefficients": (3.4, -4.7, 2.0)},
    ],
    ids=str,
)
def test_fifty_steps_on_matrices_equal_torch(words, rounded, monkeypatch):
    """torch rounds to bfloat16: ours with that ns_dtype equals it as it is; in float64 ours equals
    torch's code with the rounding taken out."""
    first, *grads = drawn(SHAPES)
    words = {"adjust_lr_fn": "match_rms_adamw", **words}
    optimizer = atf.muon(lr=0.03, ns_dtype=torch.bfloat16 if rounded else None, **words)
    got = run(optimizer, first, grads, optimizer.hparams)
    if not rounded:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    Muon: Any = torch.optim.Muon
    want = by_torch(lambda leaves: Muon(leaves, lr=0.03, **words), first, grads)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_the_rest_is_adamw():
    first, *grads = drawn({**OTHERS, **SHAPES})
    words: Any = {"lr": 0.03, "eps": 1e-6, "weight_decay": 0.2}
    optimizer = atf.muon(beta1=0.8, beta2=0.99, rest=("embed",), **words)
    got = run(optimizer, first, grads, optimizer.hparams)
    assert list(got) == list(first)
    rest = lambda tree: {name: tree[name] for name in OTHERS}  # noqa: E731
    AdamW: Any = torch.optim.AdamW
    want = by_torch(
        lambda leaves: AdamW(leaves, betas=(0.8, 0.99), **words), rest(first), map(rest, grads)
    )
    torch.testing.assert_close(rest(got), want, rtol=1e-12, atol=1e-12)


def test_singular_values_come_near_1_and_memory_is_one_buffer_a_matrix():
    first, grads = drawn(SHAPES, 1)
    optimizer = atf.muon(lr=1.0, weight_decay=0.0, adjust_lr_fn="original")
    state = optimizer.init(first)
    updates, _ = optimizer.update(grads, state, first, optimizer.hparams)
    for name, (a, b) in SHAPES.items():
        values = torch.linalg.svdvals(updates[name]) / max(1.0, a / b) ** 0.5
        assert values.min() > 0.6 and values.max() < 1.25
        assert state.exp_avg_sq[name].shape == ()


def test_muon_by_prefix_equals_muon_when_the_values_are_one():
    first, *grads = drawn({**OTHERS, **SHAPES}, 5)
    plain = atf.muon(lr=0.03, rest=("embed",))
    grouped = atf.by_prefix(plain, {"lr": {"": 0.03, "embed": 0.03, "tall": 0.03}})
    one, two = (run(o, first, grads, o.hparams) for o in (plain, grouped))
    torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-15)


def test_lion_is_its_papers_algorithm():
    first, *grads = drawn({**OTHERS, **SHAPES})
    optimizer = atf.lion(lr=0.03, beta1=0.8, beta2=0.95, weight_decay=0.2)
    got = run(optimizer, first, grads, optimizer.hparams)
    w, m = tree_map(torch.clone, first), tree_map(torch.zeros_like, first)
    for g in grads:  # algorithm 2 of arXiv 2302.06675, line by line
        for name in w:
            c = 0.8 * m[name] + (1 - 0.8) * g[name]
            w[name] = w[name] - 0.03 * (c.sign() + 0.2 * w[name])
            m[name] = 0.95 * m[name] + (1 - 0.95) * g[name]
    torch.testing.assert_close(got, w, rtol=1e-12, atol=1e-12)


def test_no_curvature_is_exact_for_lion_and_its_betas_have_no_hypergradient():
    problem, values = tanh_mlp(steps=6), dict(OPTIMIZERS["lion"].hparams)
    infos: Any = []
    for hvp in (atf.exact, atf.no_curvature):
        tuner = atf.rtho(problem.loss_fn, atf.lion(), hyper_update=atf.additive(0.0), hvp=hvp)
        state, info = start(problem, tuner, values), None
        for batch, val_batch in problem.batches:
            state, info = tuner.step(state, batch, val_batch)
        infos.append(info)
    torch.testing.assert_close(infos[0].hypergrads, infos[1].hypergrads, rtol=1e-12, atol=0)
    h = infos[0].hypergrads
    assert h["lr"] != 0 and h["weight_decay"] != 0 and h["beta1"] == 0 and h["beta2"] == 0


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="adjust_lr_fn must be one of match_rms_adamw, original"):
        atf.muon(adjust_lr_fn="none")  # pyright: ignore[reportArgumentType]
    problem = tanh_mlp(steps=1)
    tuner = atf.marthe(problem.loss_fn, atf.muon(rest=("head",)))
    with pytest.raises(ValueError, match=r"no matrix has the prefix 'head' of rest; matrices: 0\."):
        start(problem, tuner, {"lr": 0.1})
    with pytest.raises(TypeError, match="muon needs params to be a flat dict"):
        atf.muon().init([torch.ones(2, 2)])


@pytest.mark.compiles
def test_lion_compiles():
    problem = tanh_mlp(steps=3)
    tuner = atf.hd(problem.loss_fn, OPTIMIZERS["lion"])
    step = atf.jit(tuner.step, backend="eager")
    one = two = start(problem, tuner, {"lr": 0.01})
    for batch, _ in problem.batches:
        one, two = tuner.step(one, batch)[0], step(two, batch)[0]
    torch.testing.assert_close(one.params, two.params, rtol=1e-12, atol=1e-14)
