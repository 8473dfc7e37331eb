"""Hyperparameters by name prefix: exact like scalars, in words when they do not fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import (
    owners_by_prefix,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_paths,
    tree_unflatten,
)
from tests import reference
from tests.cases import METHODS, Problem, start

SGD = atf.by_prefix(atf.sgd(lr=0.1, momentum=0.9, nesterov=True))
ADAM = atf.by_prefix(atf.adam(lr=0.01, eps=1e-4, weight_decay=1e-2))

#: Dicts in an order that sorting would change, prefix sets that cut across each other.
CASES = {
    "sgd": (
        SGD,
        {
            "lr": {"out": 0.05, "body": 0.1, "body.0": 0.2},
            "momentum": {"": 0.9, "body.2": 0.5},
            "weight_decay": {"out.weight": 1e-2, "": 1e-3},
        },
    ),
    "adam": (
        ADAM,
        {
            "lr": {"": 0.01, "body.0.bias": 0.02, "body.0": 0.005},
            "beta1": {"out": 0.8, "body": 0.9},
            "weight_decay": {"out": 1e-3, "": 1e-2},
            "beta2": 0.99,
        },
    ),
    "clipped": (
        atf.clip_grad_norm(SGD, 0.2),
        {"lr": {"out": 0.05, "": 0.1}, "momentum": {"body": 0.9, "out": 0.5}},
    ),
}


def layered(steps: int = 5) -> Problem:
    torch.manual_seed(5)
    body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh())
    module = nn.Sequential()
    module.add_module("body", body)
    module.add_module("out", nn.Linear(4, 5))
    loss_fn, params, buffers = atf.functionalize(module.double(), F.cross_entropy)

    def draw():
        return torch.randn(16, 6, dtype=torch.float64), torch.randint(0, 5, (16,))

    return Problem(loss_fn, params, buffers, [(draw(), draw()) for _ in range(steps)])


def reverse_mode(problem, optimizer, hparams):
    """The hypergradient by autograd through the run; nothing of the recursion in it."""
    eta = tree_map(lambda v: torch.tensor(v, dtype=torch.float64, requires_grad=True), hparams)
    loss = reference.train(problem, optimizer, eta)
    leaves, treedef = tree_flatten(eta)
    return tree_unflatten(treedef, torch.autograd.grad(loss, leaves))


def last_info(problem, tuner, hparams, step=None):
    state, info = start(problem, tuner, hparams), None
    for pair in problem.batches:
        state, info = (step or tuner.step)(state, *pair)
        assert info.accepted
    assert info is not None
    return state, info


def assert_trees_close(got, want, **tolerances):
    assert tree_paths(got) == tree_paths(want)
    for a, b in zip(tree_leaves(got), tree_leaves(want), strict=True):
        torch.testing.assert_close(a, b, **tolerances)


@pytest.mark.parametrize("case", CASES)
def test_columns_equal_reverse_mode_through_the_run(case):
    problem, (optimizer, hparams) = layered(steps=6), CASES[case]
    tuner = atf.rtho(problem.loss_fn, optimizer, hyper_update=atf.additive(0.0))
    _, info = last_info(problem, tuner, hparams)
    want = reverse_mode(problem, optimizer, hparams)
    assert_trees_close(info.hypergrads, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_columns_equal_differences_of_the_run(case):
    problem, (optimizer, hparams) = layered(steps=3), CASES[case]
    for mu in (1.0, 0.7):
        report = atf.check_tangents(
            problem.loss_fn, optimizer, problem.params, hparams, problem.batches, mu=mu
        )
        assert len(report) == len(tree_leaves(hparams))
        for name, check in report.items():
            assert check.relative_error < 1e-5 and check.cosine > 1 - 1e-8, (name, check)


@pytest.mark.parametrize("plain", [atf.sgd(momentum=0.9), atf.adamw(eps=1e-4)])
def test_one_prefix_for_all_is_the_scalar(plain):
    problem = layered()
    rule = atf.additive(1e-4, alpha=1e-6)
    results = []
    for optimizer, lr in ((plain, 0.05), (atf.by_prefix(plain), {"": 0.05})):
        tuner = atf.marthe(problem.loss_fn, optimizer, hyper_update=rule)
        results.append(last_info(problem, tuner, {"lr": lr}))
    (scalar, scalar_info), (nested, nested_info) = results
    assert torch.equal(scalar.hparams["lr"], nested.hparams["lr"][""])
    assert torch.equal(scalar_info.hypergrads["lr"], nested_info.hypergrads["lr"][""])
    assert_trees_close(nested.params, scalar.params, rtol=0, atol=0)


def test_layers_sum_to_the_scalar():
    problem, (optimizer, _) = layered(), CASES["sgd"]
    rule = atf.additive(0.0)
    tuner = atf.marthe(problem.loss_fn, optimizer, hyper_update=rule)
    _, one = last_info(problem, tuner, {"lr": 0.1})
    _, each = last_info(problem, tuner, {"lr": {"body.0": 0.1, "body.2": 0.1, "out": 0.1}})
    total = sum(each.hypergrads["lr"].values())
    torch.testing.assert_close(total, one.hypergrads["lr"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_each_hyperparameter_moves_by_its_own_hypergradient(case):
    problem, (optimizer, hparams) = layered(), CASES[case]
    tuner = atf.marthe(problem.loss_fn, optimizer, hyper_update=atf.additive(1e-4))
    state, _ = last_info(problem, tuner, hparams)
    assert tree_paths(state.hparams) == tree_paths(hparams)
    for old, new in zip(tree_leaves(hparams), tree_leaves(state.hparams), strict=True):
        assert float(new) != old


@pytest.mark.compiles
def test_compiled_equals_eager():
    problem, (optimizer, hparams) = layered(steps=2), CASES["clipped"]
    tuner = METHODS["hd"](problem.loss_fn, optimizer, atf.no_curvature)
    step = atf.jit(tuner.step, backend="aot_eager")
    eager, compiled = (last_info(problem, tuner, hparams, s) for s in (None, step))
    assert_trees_close(compiled, eager, rtol=1e-9, atol=1e-12)


def test_vmap_over_states():
    problem, (optimizer, hparams) = layered(steps=3), CASES["adam"]
    tuner = METHODS["marthe"](problem.loss_fn, optimizer, atf.exact)
    states = [start(problem, tuner, tree_map(lambda v, s=s: s * v, hparams)) for s in (0.5, 1.0)]
    together = tree_map(lambda *leaves: torch.stack(leaves), *states)
    step = torch.func.vmap(tuner.step, in_dims=(0, None, None))
    for pair in problem.batches:
        together, _ = step(together, *pair)
        states = [tuner.step(state, *pair)[0] for state in states]
    alone = tree_map(lambda *leaves: torch.stack(leaves), *states)
    # After one step of Adam the betas' tangents are 0 and their cosine rounding noise: no snr here.
    got, want = (state._replace(snr_state=()) for state in (together, alone))
    assert_trees_close(got, want, rtol=1e-9, atol=1e-12)


def test_values_at_construction_and_tuned_scalars_beside_them():
    problem = layered(steps=1)
    optimizer = atf.by_prefix(
        atf.sgd(momentum=0.5), {"lr": {"": 0.1, "out": 0.0}, "weight_decay": {"": 0.1, "out": 0.0}}
    )
    tuner = atf.marthe(problem.loss_fn, optimizer, hyper_update=atf.additive(0.0))
    state, _ = last_info(problem, tuner, {"momentum": 0.5})
    assert torch.equal(state.params["out.weight"], problem.params["out.weight"])
    assert not torch.equal(state.params["body.0.weight"], problem.params["body.0.weight"])
    moved, _ = last_info(problem, tuner, {"lr": 0.1})  # what is tuned replaces the dict
    assert not torch.equal(moved.params["out.weight"], problem.params["out.weight"])


def test_the_order_of_names_survives_groups_that_interleave():
    problem = layered(steps=2)
    tuner = atf.marthe(problem.loss_fn, SGD, hyper_update=atf.additive(1e-4))
    state, _ = last_info(problem, tuner, {"lr": {"body.2": 0.1, "": 0.1}})
    assert list(state.params) == list(state.opt_state.momentum_buffer) == list(problem.params)


def test_whole_components_and_the_longest_wins():
    names = ["layers.1.weight", "layers.10.weight", "layers.10.bias", "head"]
    assert owners_by_prefix(names, "lr", ["layers.1", "", "layers.10", "layers.10.bias"]) == {
        "layers.1.weight": "layers.1",
        "layers.10.weight": "layers.10",
        "layers.10.bias": "layers.10.bias",
        "head": "",
    }


def test_errors_in_words():
    problem = layered(steps=1)

    def init(optimizer, hparams, params=problem.params):
        rule = atf.additive(0.0)
        return atf.marthe(problem.loss_fn, optimizer, hyper_update=rule).init(params, hparams)

    with pytest.raises(ValueError, match=r"no prefix for the parameter 'out\.weight'.*'' for the"):
        init(SGD, {"lr": {"body": 0.1}})
    with pytest.raises(ValueError, match=r"no parameter takes lr\['bod'\]"):
        init(SGD, {"lr": {"bod": 0.1, "": 0.1}})
    with pytest.raises(ValueError, match="no prefix for the parameter"):
        atf.by_prefix(atf.sgd(), {"lr": {"body": 0.1}}).init(problem.params)
    with pytest.raises(ValueError, match="no prefix for the parameter"):
        init(SGD, {"lr": {}})
    with pytest.raises(TypeError, match=r"sgd takes one number for lr, .* by_prefix\(sgd"):
        init(atf.sgd(), {"lr": {"": 0.1}})
    with pytest.raises(TypeError, match="takes one number for momentum"):
        init(atf.clip_grads(atf.sgd(), 1.0), {"momentum": {"": 0.1}})
    with pytest.raises(ValueError, match="no hyperparameter 'momentun'; it has lr"):
        atf.by_prefix(atf.sgd(), {"momentun": {"": 0.9}})
    with pytest.raises(TypeError, match=r"^by_prefix needs params to be a flat dict"):
        init(SGD, {"lr": {"": 0.1}}, [torch.ones(2)])
    with pytest.raises(TypeError, match=r"lr\[''\] must be a number"):
        init(SGD, {"lr": {"": "1"}})


@pytest.mark.parametrize("optimizer", [SGD, atf.clip_grad_norm(SGD, 0.05)], ids=["sgd", "clipped"])
def test_a_shared_product_divides_the_exact_hypergradient_among_groups(optimizer):
    """Clipped, the norm ties the groups together: columns reach parameters of others."""
    problem, values = layered(), {"lr": 0.1, "momentum": 0.5, "weight_decay": 1e-2}
    rule, layers = atf.additive(0.0), ("out", "body.0", "body.2")
    exact = atf.marthe(problem.loss_fn, optimizer, mu=0.9, hyper_update=rule)
    _, scalars = last_info(problem, exact, values)
    hparams = {
        "momentum": {"body": 0.5, "out": 0.5},
        "lr": dict.fromkeys(layers, 0.1),
        "weight_decay": 1e-2,
    }
    counts = []

    def counted(grad_fn, params, batch, v):
        counts.append(tree_leaves(v)[0].shape[0])
        return atf.exact(grad_fn, params, batch, v)

    shared = atf.shared_product(counted, hparams)
    tuner = atf.marthe(problem.loss_fn, optimizer, mu=0.9, hyper_update=rule, hvp=shared)
    state, groups = last_info(problem, tuner, hparams)
    assert set(counts) == {3}  # one product a hyperparameter, not one for each of 6 columns
    for name in values:
        total = sum(tree_leaves(groups.hypergrads[name]))
        torch.testing.assert_close(total, scalars.hypergrads[name], rtol=1e-10, atol=1e-14)
    if optimizer is not SGD:
        return
    lr_of_out = tree_paths(hparams).index(("lr", "out"))
    for name, column in state.z.params.items():
        assert bool((column[lr_of_out] != 0).any()) == name.startswith("out")


def test_a_shared_product_of_one_group_is_exact():
    problem = layered()
    hparams = {"lr": {"": 0.1}, "momentum": 0.9}
    exact, shared = (
        last_info(
            problem,
            atf.marthe(problem.loss_fn, SGD, hyper_update=atf.additive(0.0), hvp=hvp),
            hparams,
        )[1].hypergrads
        for hvp in (atf.exact, atf.shared_product(atf.exact, hparams))
    )
    assert_trees_close(shared, exact, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="built for 1 columns and got 2"):
        hvp = atf.shared_product(atf.exact, {"lr": {"": 0.1}})
        last_info(
            problem,
            atf.marthe(problem.loss_fn, SGD, hyper_update=atf.additive(0.0), hvp=hvp),
            hparams,
        )
