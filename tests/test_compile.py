"""``torch.compile(tuner.step, fullgraph=True)``: one graph, no recompilation, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.exc import RecompileError

import adatune_func as atf
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import (
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


#: One of each kind of product, rule, discount and outer loss; ``test_jit.py`` has the whole list.
FEW = [
    ("sgd_nesterov", "forward_over_reverse", "marthe"),
    ("adam", "on_fraction", "marthe_adaptive"),
    ("clipped", "gauss_newton", "marthe_relative"),
    ("adamw", "no_curvature", "adaptive_next_batch"),
]


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


@pytest.mark.parametrize(("optimizer", "hvp", "method"), FEW)
def test_compiled_equals_eager(optimizer, hvp, method):
    problem = tanh_mlp()
    tuner = METHODS[method](problem.loss_fn, OPTIMIZERS[optimizer], HVPS[hvp])
    compare(tuner, problem, {"lr": 0.005}, "eager", 1e-10)


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


def test_compiled_equals_eager_through_inductor():
    problem = tanh_mlp()
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd_nesterov"], atf.exact)
    compare(tuner, problem, {"lr": 0.05}, "inductor", 1e-10)


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
