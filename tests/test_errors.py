"""Bad input is one clear sentence, at init or at the first step."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from tests.cases import conv_batchnorm, needs_sdpa_kernel, start, tanh_mlp

RULE = atf.additive(1e-3)


def init(hparams, mu=0.99, optimizer=None, params=None, rule=RULE, **kwargs):
    problem = tanh_mlp()
    tuner = atf.marthe(problem.loss_fn, optimizer or atf.sgd(), mu=mu, hyper_update=rule, **kwargs)
    return tuner.init(problem.params if params is None else params, hparams=hparams)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hparams": {"learning_rate": 0.1}},
         r"sgd has no hyperparameter 'learning_rate'; it has lr, momentum, weight_decay"),
        ({"hparams": {"beta": 0.1}, "optimizer": atf.clip_grads(atf.adam(), 1.0)},
         r"adam has no hyperparameter 'beta'"),
        ({"hparams": {"lr": torch.ones(2)}}, r"lr must be a scalar, got shape \(2,\)"),
        ({"hparams": {"lr": True}}, "lr must be a number or a 0-d tensor, got bool True"),
        ({"hparams": {"lr": torch.tensor(1)}}, "lr must be floating point, got torch.int64"),
        ({"hparams": {"lr": "0.1"}}, "lr must be a number"),
        ({"hparams": {"lr": -0.1}}, r"lr = -0.1 lies outside \[0, inf\]"),
        ({"hparams": {"lr": float("nan")}}, "lr = nan lies outside"),
        ({"hparams": {"momentum": 1.0}}, r"momentum = 1 lies outside"),
        ({"hparams": {"eps": 0.0}, "optimizer": atf.adam()}, "eps = 0 lies"),
        ({"hparams": [0.1]}, "hparams must be a dict"),
        ({"hparams": {"lr": 0.1}, "mu": 1.5}, r"mu must lie in \[0, 1\], got 1.5"),
        ({"hparams": {"lr": 0.1}, "mu": -0.1}, "mu must lie in"),
        ({"hparams": {"momentum": 0.9}, "mu": atf.adaptive()}, "adaptive mu is defined for one"),
        ({"hparams": {"lr": 0.1, "momentum": 0.9}, "mu": atf.adaptive()}, "adaptive mu"),
        ({"hparams": {}, "mu": atf.adaptive()}, "adaptive mu"),
        ({"hparams": {"lr": 0.1}, "outer": "test"}, "outer must be one of validation, next_batch"),
        ({"hparams": {"lr": 0.1}, "outer": "next_batch", "val_loss_fn": tanh_mlp().loss_fn},
         "val_loss_fn is never called"),
        ({"hparams": {"lr": 0.1}, "clip_outer": -1.0}, "clip_outer must be above 0, got -1.0"),
        ({"hparams": {"lr": 0.1}, "params": {"w": 1.0}}, "params must be a tree of tensors"),
        ({"hparams": {"lr": 0.1}, "params": {"w": None}}, "found None"),
        ({"hparams": {"lr": 0.1}, "params": {"w": torch.ones(2, dtype=torch.long)}},
         "params must be floating point, found torch.int64"),
        ({"hparams": {"lr": 0.1}, "params": {}}, "params is empty"),
        ({"hparams": {"lr": 0.1}, "optimizer": atf.adam}, "function adam; is it to be called"),
        ({"hparams": {"lr": 0.1}, "optimizer": torch.optim.SGD([torch.ones(1)], lr=0.1)},
         "optimizer must be an Optimizer such as .*, got SGD"),
        ({"hparams": {"lr": 0.1}, "rule": atf.relative}, "hyper_update must be relative"),
        ({"hparams": {"lr": 0.1}, "hvp": "exact"}, "hvp must be a function .*, got str"),
        ({"hparams": {"lr": 0.1}, "mu": atf.adaptive}, "mu must be a number in .*to be called"),
        ({"hparams": {"lr": 0.1}, "rule": atf.additive(-1.0)}, "hyper_lr and alpha must be >= 0"),
        ({"hparams": {"lr": 0.1}, "rule": atf.additive({"momentum": 1.0})}, "no entry for 'lr'"),
    ],
)  # fmt: skip
def test_init_says_what_is_wrong(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words) as error:
        init(**arguments)
    assert "\n" not in str(error.value)


def test_an_integer_start_is_a_number():
    assert init({"lr": 1}).hparams["lr"] == 1.0


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("wrap", [atf.clip_grads, atf.clip_grad_norm, atf.clip_products])
def test_a_bound_that_lets_nothing_through_is_refused(wrap, bound):
    wrapped = atf.exact if wrap is atf.clip_products else atf.sgd()
    with pytest.raises(ValueError, match="c must be above 0"):
        wrap(wrapped, bound)


@pytest.mark.parametrize("make", [atf.adam, atf.adamw])
def test_a_beta_that_divides_by_zero_is_refused(make):
    for options in ({"beta2": 1.0}, {"beta1": -0.1}):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got"):
            make(**options)


def test_a_schedule_of_floats_is_refused():
    problem = tanh_mlp()
    of_floats: Any = lambda t: 0.1  # noqa: E731  # what a type checker would refuse, too
    with pytest.raises(TypeError, match="schedule must return a 0-d tensor, got float"):
        atf.plain(problem.loss_fn, atf.sgd(), of_floats).init(problem.params)


def test_an_average_that_is_not_there():
    with pytest.raises(TypeError, match="has no average: its optimizer's outermost wrapper"):
        atf.averages(init({"lr": 0.1}))


def test_an_integer_step_counter_is_refused():
    adam = atf.adam()
    counted = adam._replace(
        init=lambda p: adam.init(p)._replace(step=torch.zeros((), dtype=torch.long))
    )
    with pytest.raises(TypeError, match="opt_state must be a floating-point tensor"):
        init({"lr": 0.1}, optimizer=counted)


def test_missing_buffers():
    problem = conv_batchnorm()
    tuner = atf.rtho(problem.loss_fn, atf.sgd(), hyper_update=RULE)
    state = tuner.init(problem.params, hparams={"lr": 0.1})
    with pytest.raises(ValueError, match="buffers are not those of the module: missing"):
        tuner.step(state, *problem.batches[0])


def test_missing_validation_batch():
    problem = tanh_mlp()
    tuner = atf.rtho(problem.loss_fn, atf.sgd(), hyper_update=RULE)
    with pytest.raises(ValueError, match="needs step"):
        tuner.step(start(problem, tuner, {"lr": 0.1}), problem.batches[0][0])


@pytest.mark.parametrize(
    ("loss_fn", "words"),
    [
        (lambda p, b, batch: (batch[0] @ p["0.weight"].T, b), r"must be a scalar, got shape"),
        (lambda p, b, batch: p["0.weight"].sum(), r"must return \(loss, buffers\), got Tensor"),
    ],
)
def test_a_loss_of_the_wrong_form(loss_fn, words):
    problem = tanh_mlp()
    tuner = atf.rtho(loss_fn, atf.sgd(), hyper_update=RULE)
    with pytest.raises(ValueError, match=words):
        tuner.step(start(problem, tuner, {"lr": 0.1}), *problem.batches[0])


@pytest.mark.parametrize("hvp", [atf.exact, atf.gauss_newton])
def test_a_criterion_that_keeps_its_samples_apart(hvp):
    loss_fn, params, _ = atf.functionalize(
        nn.Linear(6, 5), lambda output, target: F.cross_entropy(output, target, reduction="none")
    )
    tuner = atf.marthe(loss_fn, atf.sgd(), hvp=hvp)
    state = tuner.init(params, {"lr": 0.1})
    batch = (torch.randn(3, 6), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"the loss must be a scalar, got shape \(3,\)"):
        tuner.step(state, batch, batch)


class Attention(nn.Module):
    def __init__(self, backend):
        super().__init__()
        self.qkv, self.head, self.backend = nn.Linear(4, 12), nn.Linear(4, 3), backend

    def forward(self, x):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)  # one head
        chosen = sdpa_kernel(getattr(SDPBackend, self.backend)) if self.backend else nullcontext()
        with chosen:
            return self.head(F.scaled_dot_product_attention(q, k, v).mean((1, 2)))


def attention_step(hvp, backend=""):
    loss_fn, params, _ = atf.functionalize(Attention(backend), F.cross_entropy)
    tuner = atf.rtho(loss_fn, atf.sgd(), hyper_update=RULE, hvp=hvp)
    batch = (torch.randn(2, 5, 4), torch.tensor([0, 2]))
    return tuner.step(tuner.init(params, hparams={"lr": 0.1}), batch, batch)[1]


@needs_sdpa_kernel
@pytest.mark.parametrize("hvp", [atf.forward_over_reverse, atf.reverse_over_reverse])
def test_attention_that_chooses_its_kernel_says_what_to_do(hvp):
    with pytest.raises(NotImplementedError, match=r"finite_difference.*leave that to the product"):
        attention_step(hvp, "FLASH_ATTENTION")
    torch.manual_seed(0)
    exact = attention_step(hvp)
    torch.manual_seed(0)
    cheap = attention_step(atf.finite_difference(), "FLASH_ATTENTION")
    torch.testing.assert_close(exact.hypergrads["lr"], cheap.hypergrads["lr"])


def test_finite_difference_refuses_dropout_in_words():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    loss_fn, params, _ = atf.functionalize(model, F.cross_entropy)
    tuner = atf.rtho(loss_fn, atf.sgd(), hyper_update=RULE, hvp=atf.finite_difference())
    batch = (torch.randn(2, 4), torch.tensor([0, 2]))
    with pytest.raises(RuntimeError, match="dropout"):
        tuner.step(tuner.init(params, hparams={"lr": 0.1}), batch, batch)
