"""``torch.compile(tuner.step, fullgraph=True)``: one graph, no recompilation, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.exc import RecompileError

import adatune_func as atf
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import (
    COMPILED_ELSEWHERE,
    HVPS,
    METHODS,
    OPTIMIZERS,
    conv_batchnorm,
    in_channels_last,
    start,
    tanh_mlp,
)

pytestmark = pytest.mark.compiles


@pytest.fixture(autouse=True)
def no_recompilation():
    """``fullgraph=True`` makes it one graph, this makes it the only one."""
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


#: sgd and sgd_momentum are sgd_dampening with other numbers: the same graph.
GRAPHS = [name for name in OPTIMIZERS if name not in ("sgd", "sgd_momentum", *COMPILED_ELSEWHERE)]


def covering():
    """Each pair of (hvp, method), optimizers in turn: each of these meets each hvp and method."""
    return [
        (GRAPHS[(i + j) % len(GRAPHS)], hvp, method)
        for i, hvp in enumerate(HVPS)
        for j, method in enumerate(METHODS)
    ]


def test_the_triples_cover_every_pair():
    triples = covering()
    for a, b, lists in ((0, 1, (GRAPHS, HVPS)), (0, 2, (GRAPHS, METHODS)), (1, 2, (HVPS, METHODS))):
        wanted = {(x, y) for x in lists[0] for y in lists[1]}
        assert {(t[a], t[b]) for t in triples} == wanted


def compare(tuner, problem, hparams, backend, tolerance):
    """Compiled beside eager, the same states; hyperparameters have to move on the way."""
    step = torch.compile(tuner.step, fullgraph=True, backend=backend)
    one = two = start(problem, tuner, hparams)
    for batch, val_batch in problem.batches:
        one, _ = tuner.step(one, batch, val_batch)
        two, info = step(two, batch, val_batch)
        assert info.accepted
    for name, value in hparams.items():
        assert float(one.hparams[name]) != value
    for a, b in zip(tree_leaves(one), tree_leaves(two), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("optimizer", "hvp", "method"), covering())
def test_compiled_equals_eager(optimizer, hvp, method):
    problem = tanh_mlp()
    tuner = METHODS[method](problem.loss_fn, OPTIMIZERS[optimizer], HVPS[hvp])
    # a difference divides the rounding of two gradients, 1e-16, by its step, 1e-8 at the least
    tolerance = 1e-7 if hvp.endswith("_difference") else 1e-10
    compare(tuner, problem, {"lr": 0.005}, "eager", tolerance)


@pytest.mark.parametrize(
    ("layout", "hparams"),
    [(lambda problem: problem, {"lr": 0.05}), (in_channels_last, {"lr": 0.05, "momentum": 0.8})],
)
def test_compiled_equals_eager_through_aot_autograd(layout, hparams):
    problem = layout(conv_batchnorm(channels=2))
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd_nesterov"], atf.exact)
    compare(tuner, problem, hparams, "aot_eager", 1e-10)


ONE, TWO = {"lr": 0.05}, {"lr": 0.05, "momentum": 0.8}


@pytest.mark.parametrize(
    ("method", "hvp", "hparams"),
    [("marthe", hvp, hparams) for hvp in HVPS for hparams in (ONE, TWO)]
    + [(method, "gauss_newton", ONE) for method in METHODS],
)
def test_a_step_keeps_channels_last(method, hvp, hparams):
    """Strides belong to the graph: what lies otherwise in memory than before is another one."""
    problem = in_channels_last(conv_batchnorm(channels=2))
    tuner = METHODS[method](problem.loss_fn, OPTIMIZERS["sgd_nesterov"], HVPS[hvp])
    before = start(problem, tuner, hparams)
    after, _ = tuner.step(before, *problem.batches[0])
    for a, b in zip(tree_leaves(after), tree_leaves(before), strict=True):
        assert a.stride() == b.stride()


@pytest.mark.parametrize(
    ("optimizer", "make", "dtype"),
    [("adam", tanh_mlp, "float32"), ("sgd_nesterov", conv_batchnorm, "float64")],
)
def test_compiled_equals_eager_through_inductor(optimizer, make, dtype):
    problem = make(dtype=getattr(torch, dtype))
    tuner = METHODS["marthe_adaptive"](problem.loss_fn, OPTIMIZERS[optimizer], atf.exact)
    tolerance = 1e-5 if dtype == "float32" else 1e-10
    compare(tuner, problem, {"lr": 0.05}, "inductor", tolerance)


def test_fifty_steps_compile_once():
    problem = tanh_mlp(steps=50)
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["adam"], atf.exact)
    step = torch.compile(tuner.step, fullgraph=True, backend="eager")
    state, seen = start(problem, tuner, {"lr": 0.05}), set()
    for batch, val_batch in problem.batches:
        state, _ = step(state, batch, val_batch)
        seen.add(float(state.hparams["lr"]))
    # other numbers, other starting points: still the same graph
    state = tree_map(torch.clone, start(problem, tuner, {"lr": 0.5}))
    step(state, *problem.batches[0])
    assert len(seen) == 50
    # ... while another dtype is another graph: the guard of this file does bite
    other = tanh_mlp(steps=1, dtype=torch.float32)
    with pytest.raises(RecompileError):
        step(start(other, tuner, {"lr": 0.05}), *other.batches[0])


def test_two_fractions_in_one_process_are_both_constants():
    """Dynamo makes a number symbolic, and sizes with it, once it has seen another in its place."""
    problem, inputs = conv_batchnorm(steps=1), []

    def backend(graph, example_inputs):
        inputs.append(len(example_inputs))
        return graph.forward

    torch._dynamo.reset()
    for fraction in (1 / 2, 1 / 4, 1 / 8):
        hvp = atf.on_fraction(atf.exact, fraction)
        tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["adam"], hvp)
        with torch._dynamo.config.patch(error_on_recompile=False):
            step = torch.compile(tuner.step, fullgraph=True, backend=backend)
            step(start(problem, tuner, {"lr": 0.05}), *problem.batches[0])
    assert len(set(inputs)) == 1  # a symbolic number would be one more


@pytest.mark.parametrize("hvp", ["forward_over_reverse", "on_fraction", "accumulated"])
def test_a_vmapped_step_compiles(hvp):
    problem = tanh_mlp()
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd_nesterov"], HVPS[hvp])
    states = [start(problem, tuner, {"lr": lr}) for lr in (0.01, 0.1)]
    together = tree_map(lambda *leaves: torch.stack(leaves), *states)
    mapped = torch.func.vmap(tuner.step, in_dims=(0, None, None))
    step = torch.compile(mapped, fullgraph=True, backend="eager")
    one, _ = mapped(together, *problem.batches[0])
    two, _ = step(together, *problem.batches[0])
    for a, b in zip(tree_leaves(one), tree_leaves(two), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
