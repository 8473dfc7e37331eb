"""A loss with hyperparameters: what is refused, torch's own losses, check_tangents."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.curvature.tensor_arguments import TensorArguments
from adatune_func.trees import tree_leaves
from tests.cases import start
from tests.checked import checked, errors
from tests.loss_cases import LOSSES, loss_problem, smoothed

PARAMS = {"w": torch.ones(3)}


def ridge(params, buffers, x, hparams):
    return (params["w"] - x).square().sum() + hparams["s"] * params["w"].square().sum(), buffers


def plain(params, buffers, x):
    return (params["w"] - x).square().sum(), buffers


RIDGE = atf.Loss(ridge, {"s": 0.1}, plain)


def tempered(output, target, t, shift=0.0):
    return F.cross_entropy((output + shift) / t, target)


# Refused at init


@pytest.mark.parametrize(
    ("loss_fn", "hparams", "options", "words"),
    [
        (RIDGE, {"x": 1.0}, {}, "sgd has no hyperparameter 'x'; it has .*; the loss has s"),
        (RIDGE._replace(hparams={"lr": 1.0, "s": 0.1}), {}, {},
         "lr is a hyperparameter of sgd and of the loss"),
        (RIDGE, {"s": [1.0, 2.0]}, {}, "s is a vector of 2 here, and in the loss a number"),
        (RIDGE._replace(hparams={"s": torch.ones(3)}), {"s": torch.ones(2)}, {},
         "s is a vector of 2 here, and in the loss a vector of 3"),
        (RIDGE._replace(hparams={"s": {"a": 1.0}}), {"s": {"b": 1.0}}, {},
         "s is a dict of b here, and in the loss a dict of a"),
        (RIDGE, {"s": math.inf}, {}, "s = inf is not finite"),
        (RIDGE, {"s": None}, {}, "s must be a number"),
        (RIDGE, {"s": 0.0}, {}, r"s = 0 lies outside \[1e-12, inf\]"),
        (RIDGE._replace(domains={"s": (0.0, math.inf)}), {"s": 0.0}, {},
         "s cannot move on a logarithmic scale from 0: start it at a small positive number"),
        (RIDGE._replace(domains={"s": (0.0, 1.0)}), {"s": 0.0}, {},
         r"s = 0 lies on the border of \[0, 1\], where it cannot move: start it at 0.01, or leave"),
        (RIDGE._replace(domains={"s": (0.0, 1.0)}), {"s": 1.0}, {}, "start it at 0.99"),
        (RIDGE._replace(domains={"s": (0.0, 1.0)}), {"s": 1.5}, {}, "s = 1.5 lies outside"),
        (RIDGE._replace(plain=None), {"s": 0.1}, {},
         "s is tuned inside the training loss, which must not judge it: give the plain loss"),
        (RIDGE, {"lr": 0.1}, {"outer": "next_batch", "val_loss_fn": plain},
         "val_loss_fn is never called"),
        (RIDGE, {"s": 0.1}, {"mu": atf.adaptive()}, "adaptive mu is defined for one scalar"),
        (RIDGE, {"s": 0.1}, {"mu": atf.discount.constant(1.0)._replace(uses_grads=True),
                             "outer": "next_batch"}, "take a constant mu, or validation"),
    ],
)  # fmt: skip
def test_init_says_what_is_wrong(loss_fn, hparams, options, words):
    with pytest.raises((ValueError, TypeError), match=words) as error:
        atf.marthe(loss_fn, atf.sgd(), **options).init(PARAMS, hparams)
    assert "\n" not in str(error.value)


def test_what_the_words_say_works():
    bounded = RIDGE._replace(domains={"s": (0.0, 1.0)})
    cases: list[tuple[Any, Any, Any]] = [
        (bounded, {"s": 0.01}, {}),
        (bounded, {"s": 0.99}, {}),
        (bounded, {"lr": 1e-3}, {}),
        (RIDGE._replace(plain=None), {"s": 0.1}, {"val_loss_fn": plain}),
        (RIDGE._replace(plain=None), {"lr": 1e-3}, {}),  # nothing of the loss is tuned
        (RIDGE, {"s": 0.1}, {"outer": "next_batch", "val_loss_fn": plain}),
    ]
    for loss_fn, hparams, options in cases:
        tuner = atf.marthe(loss_fn, atf.sgd(lr=1e-3), **options)
        state = tuner.init(PARAMS, hparams)
        for _ in range(2):
            state, info = tuner.step(state, torch.zeros(3), torch.ones(3))
            assert info.accepted


def test_a_rule_of_ones_own_is_told_the_domain_or_refuses():
    still = atf.additive(0.0)
    own, bounded = atf.HyperUpdate(still.init, still.update), RIDGE._replace(domains={"s": (0, 1)})
    atf.marthe(RIDGE, atf.sgd(), hyper_update=own)
    with pytest.raises(ValueError, match="keeps s in a domain, which this rule is not told"):
        atf.marthe(bounded, atf.sgd(), hyper_update=own)
    told = own._replace(within=lambda domains: atf.additive(0.0, domains=domains))
    with pytest.raises(ValueError, match=r"s = 2 lies outside \[0, 1\]"):
        atf.marthe(bounded, atf.sgd(), hyper_update=told).init(PARAMS, {"s": 2.0})


@pytest.mark.parametrize(
    ("criterion", "options", "words"),
    [
        (F.mse_loss, {"hparams": {"delta": 1.0}}, "mse_loss takes no keyword 'delta'; it takes"),
        (nn.CrossEntropyLoss(), {"hparams": {"label_smoothing": 0.1}},
         "CrossEntropyLoss.forward takes no keyword 'label_smoothing'"),
        (None, {"hparams": {"penalty": 0.1}}, "Linear.forward takes no keyword 'penalty'"),
        (tempered, {"hparams": {"t": 1.0}, "domains": {"T": (0, 1)}}, "domains has T"),
        (tempered, {"hparams": ["t"]}, "hparams must be a dict"),
    ],
)  # fmt: skip
def test_functionalize_says_what_is_wrong(criterion, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        atf.functionalize(nn.Linear(3, 2), criterion, **options)


def test_plain_is_the_criterion_at_its_defaults_or_not_there():
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    module = nn.Linear(3, 2)
    one: Any = atf.functionalize(module, tempered, hparams={"shift": 0.0, "t": 2.0}).loss_fn
    assert one.plain is None  # t has no default
    made: Any = atf.functionalize(module, smoothed, hparams={"smoothing": 0.3})
    two, params = made.loss_fn, made.params
    assert two(params, {}, (x, y))[0] == smoothed(module(x), y, 0.3)
    assert two.plain(params, {}, (x, y))[0] == smoothed(module(x), y)


def test_a_criterion_with_parameters_of_its_own():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output, target, smoothing=0.0):
            return smoothed(self.scale * output, target, smoothing)

    loss_fn, params, _ = atf.functionalize(nn.Linear(3, 2), Scaled(), hparams={"smoothing": 0.1})
    tuner = atf.marthe(loss_fn, atf.sgd(lr=0.1), hvp=atf.gauss_newton)
    state, batch = tuner.init(params, {"smoothing": 0.1}), (torch.randn(4, 3), torch.arange(4) % 2)
    state, info = tuner.step(state, batch, batch)
    assert state.params["criterion.scale"] != 1 and info.hypergrads["smoothing"] != 0


# torch's own losses


def draws():
    torch.manual_seed(3)
    index = torch.tensor([0, 2, 4, 1, -100, 3])
    yield torch.randn(6, 5), index
    yield torch.randn(6, 5), torch.randn(6, 5).softmax(1)
    yield torch.randn(5), torch.tensor(3)
    yield torch.randn(2, 5, 3), torch.tensor([[0, 1, -100], [4, 4, 2]])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_with_tensors_is_torchs(reduction):
    weight, smoothing = torch.tensor([1.0, 0.5, 2.0, 0.1, 3.0], dtype=torch.float64), 0.3
    for x, y in draws():
        x, y = x.double(), y.double() if y.is_floating_point() else y
        for w, s in ((weight, smoothing), (None, smoothing), (weight, 0.0)):
            want = F.cross_entropy(x, y, w, reduction=reduction, label_smoothing=s)
            with TensorArguments():
                given: Any = torch.tensor(s, dtype=torch.float64)
                got = F.cross_entropy(x, y, w, reduction=reduction, label_smoothing=given)
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["smoothing", "classes"])
def test_h_of_torchs_cross_entropy_is_that_of_one_written_out(name):
    """Forward mode gives its label_smoothing and weight the tangent 0, and no error."""
    problem, value = loss_problem(name), LOSSES[name][1][name]
    ours = {"smoothing": "label_smoothing", "classes": "weight"}[name]
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    given = {ours: torch.tensor(value, dtype=torch.float64)}
    loss_fn, _, _ = atf.functionalize(module, F.cross_entropy, hparams=given)
    for make in (atf.marthe, atf.hd):
        both = []
        for fn, key in ((problem.loss_fn, name), (loss_fn, ours)):
            tuner = make(fn, atf.sgd(lr=0.1))
            state = start(problem, tuner, {key: value})
            infos: list[Any] = []
            for batch, val_batch in problem.batches[:3]:
                pair = (batch, val_batch) if make is atf.marthe else (batch,)
                state, info = tuner.step(state, *pair)
                infos.append(info)
            both.append(tree_leaves(infos[-1].hypergrads))
        for one, two in zip(*both, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-10, atol=0.0)
        assert any(one != 0 for one in both[0])


def test_what_torch_takes_as_a_number_only_raises():
    """Not a silent 0: the gradient is taken in them as well."""
    loss_fn, params, _ = atf.functionalize(nn.Linear(3, 2), F.huber_loss, hparams={"delta": 1.0})
    batch = (torch.randn(4, 3), torch.randn(4, 2))
    for hvp in (atf.exact, atf.no_curvature, atf.finite_difference()):
        tuner = atf.marthe(loss_fn, atf.sgd(), hvp=hvp)
        with pytest.raises(TypeError, match="must be float, not Tensor"):
            tuner.step(tuner.init(params, {"delta": 1.0}), batch, batch)


# check_tangents


@pytest.mark.parametrize(("name", "mu"), [("smoothing", 1.0), ("classes", 1.0), ("penalty", 0.7)])
def test_check_tangents_finds_nothing_wrong(name, mu):
    hparams = {"lr": 0.05, **LOSSES[name][1]}
    for key, check in checked(loss_problem(name, 2), hparams=hparams, mu=mu).items():
        assert check.relative_error < 1e-5 and check.says == (), (key, check)
        assert max(errors(check).values()) < 1e-5


def test_check_tangents_counts_the_direct_term():
    problem = loss_problem("penalty", 3)
    check = checked(problem, hparams={"penalty": 0.01}, val_loss_fn=problem.loss_fn)["penalty"]
    assert check.relative_error < 1e-6 and check.says == ()


def test_check_tangents_names_what_has_no_derivative():
    problem = loss_problem("smoothing", 3)

    def numbers(params, buffers, batch, hparams):
        hparams = {"smoothing": hparams["smoothing"].detach()}
        return problem.loss_fn.fn(params, buffers, batch, hparams)

    loss_fn = problem.loss_fn._replace(fn=numbers)
    report = checked(problem._replace(loss_fn=loss_fn), hparams={"smoothing": 0.2})["smoothing"]
    (sentence,) = report.says
    assert "product H Z of smoothing" in sentence and "keep it a tensor" in sentence
