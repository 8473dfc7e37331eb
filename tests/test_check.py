"""check_tangents: right where all is right, and it says in which precision."""

from __future__ import annotations

import dataclasses
from collections import UserDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import needs_sdpa_kernel, relu_mlp, tanh_mlp
from tests.checked import LR, checked, errors, mlp, problem_of
from tests.reference import central_difference


def test_its_differences_are_those_of_an_ordinary_loop():
    problem, optimizer = tanh_mlp(steps=4), atf.adamw(eps=1e-4)
    hparams = {"lr": 0.01, "weight_decay": 0.1}
    for name, check in checked(problem, optimizer, hparams).items():
        want = central_difference(problem, optimizer, hparams, name)
        assert check.difference == pytest.approx(want, rel=1e-5)
        assert check.relative_error < 1e-5 and check.says == () and check.precision == "float64"


def test_a_right_part_is_right_by_its_own_differences():
    for problem in (tanh_mlp(), relu_mlp()):
        for hvp in (atf.exact, atf.reverse_over_reverse):
            for check in checked(problem, hparams={"lr": 0.1, "momentum": 0.9}, hvp=hvp).values():
                assert list(errors(check)) == ["product", "optimizer", "outer gradient", "buffers"]
                assert max(errors(check).values()) < 1e-6


class Encoder(nn.Module):
    """A transformer layer; batch first, its dropout meets transposed activations."""

    def __init__(self, dropout):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.MATH):
            return self.head(self.layer(self.embedding(x)).mean(1))


def seeded_run(problem, lr):
    """E after a loop of heavy-ball steps written out, step t under seed t."""
    params = {name: p.double() for name, p in problem.params.items()}
    buffers, momentum = problem.buffers, tree_map(torch.zeros_like, params)

    def loss_of(params, batch):
        return problem.loss_fn(params, buffers, batch)[0]

    for t, (batch, _) in enumerate(problem.batches):
        torch.manual_seed(t)
        grads = torch.func.grad(loss_of)(params, batch)
        momentum = tree_map(lambda m, g: 0.9 * m + g, momentum, grads)
        params = tree_map(lambda p, m: p - lr * m, params, momentum)
    torch.manual_seed(len(problem.batches))
    return torch.func.grad_and_value(loss_of)(params, problem.batches[-1][1])[1]


@needs_sdpa_kernel
@pytest.mark.parametrize("hvp", [atf.exact, atf.reverse_over_reverse])
def test_dropout_in_a_transformer_is_no_alarm(hvp):
    torch.manual_seed(0)
    problem = problem_of(
        Encoder(0.3).double(), draw=lambda: (torch.randint(20, (4, 5)), torch.randint(3, (4,)))
    )
    check = checked(problem, hparams={"lr": 0.01}, hvp=hvp)["lr"]
    assert check.relative_error < 1e-6 and check.cosine > 1 - 1e-9 and check.says == ()
    want = (seeded_run(problem, 0.01 + 1e-6) - seeded_run(problem, 0.01 - 1e-6)) / 2e-6
    assert check.hypergrad == pytest.approx(float(want), rel=1e-6)


def test_random_numbers_of_its_own_hvp_are_no_alarm():
    """Each part of an accumulated batch draws masks of its own, for one layer after the other."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Dropout(0.5), nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    check = checked(problem_of(module), hvp=atf.accumulate(atf.exact, 2))["lr"]
    assert check.relative_error < 1e-6 and check.says == ()


def test_the_generator_of_the_caller_is_left_alone():
    problem, before = tanh_mlp(), torch.get_rng_state()
    checked(problem)
    assert torch.equal(torch.get_rng_state(), before)


# Which precision


@dataclasses.dataclass(frozen=True)
class Pair:
    x: torch.Tensor
    y: torch.Tensor
    weight: Any = None


@pytest.mark.parametrize("kind", [dict, UserDict, Pair], ids=["dict", "UserDict", "dataclass"])
def test_batches_of_any_kind_are_taken_in_float64(kind):
    plain, seen = problem_of(mlp()), set()

    def loss_fn(params, buffers, batch):
        x, y = (batch.x, batch.y) if kind is Pair else (batch["x"], batch["y"])
        seen.add(x.dtype)
        return plain.loss_fn(params, buffers, (x, y))

    batches = [tuple(kind(x=x, y=y) for x, y in pair) for pair in plain.batches]
    check = checked(plain._replace(loss_fn=loss_fn, batches=batches))["lr"]
    assert check[:-2] == checked(plain)["lr"][:-2] and check.relative_error < 1e-6
    assert seen == {torch.float64} and tree_leaves(batches[0][0])  # those of the caller stay
    x = batches[0][0].x if kind is Pair else batches[0][0]["x"]
    assert x.dtype == torch.float32


class Casting(nn.Module):
    """Activations pass through another precision, unseen from outside."""

    def __init__(self, dtype):
        super().__init__()
        self.first, self.last, self.dtype = nn.Linear(5, 8), nn.Linear(8, 3), dtype

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)).to(self.dtype).to(self.last.weight.dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cast_inside_the_model_is_said(dtype):
    torch.manual_seed(0)
    check = checked(problem_of(Casting(getattr(torch, dtype))), hparams={"lr": 0.05})["lr"]
    assert check.precision == dtype and f"the loss casts float64 to {dtype}" in check.says[0]
    if dtype == "float32":  # longer steps see through the rounding: right, and nothing else said
        assert check.relative_error < 2e-2 and len(check.says) == 1


def test_a_cast_in_the_loss_is_said_of_whose_it_is():
    def casting(output, target):
        return F.cross_entropy(output.float(), target)

    wide, narrow = problem_of(mlp()), problem_of(mlp(), casting)
    both, outer = checked(narrow)["lr"], checked(wide, val_loss_fn=narrow.loss_fn)["lr"]
    assert "the loss casts" in both.says[0] and "the outer loss casts" in outer.says[0]
    assert both.precision == outer.precision == "float32" and both.relative_error < 2e-2
    assert checked(wide)["lr"].precision == "float64"


def test_a_cast_in_the_optimizer_is_said():
    def update(grads, state, params, hparams):
        return tree_map(lambda g: -(hparams["lr"] * g).float().to(g.dtype), grads), state

    check = checked(problem_of(mlp()), atf.Optimizer(lambda params: (), update, LR))["lr"]
    assert "the optimizer casts float64 to float32" in check.says[0]


def test_a_float32_tensor_of_the_loss_itself_is_named():
    weight = torch.rand(3)
    problem = problem_of(mlp(), lambda output, y: F.cross_entropy(output, y, weight=weight))
    with pytest.raises(TypeError, match="keep that in buffers, or cast it by"):
        checked(problem)
    cured = problem_of(
        mlp(), lambda output, y: F.cross_entropy(output, y, weight=weight.to(output.dtype))
    )
    assert checked(cured)["lr"].relative_error < 1e-6


def test_a_loss_that_is_not_the_same_twice_is_said():
    problem, calls = problem_of(mlp()), []

    def loss_fn(params, buffers, batch):
        calls.append(0)
        loss, buffers = problem.loss_fn(params, buffers, batch)
        return loss * (1 + 0.1 * (len(calls) % 3)), buffers

    with pytest.raises(ValueError, match="two runs of the same numbers differ"):
        checked(problem._replace(loss_fn=loss_fn))


def test_a_run_without_numbers_is_refused():
    problem = problem_of(mlp())
    with pytest.raises(ValueError, match="hparams is empty"):
        atf.check_tangents(problem.loss_fn, atf.sgd(), problem.params, {}, problem.batches)
    (x, y), val_batch = problem.batches[0]
    with pytest.raises(ValueError, match="the run itself is not finite"):
        checked(problem._replace(batches=[((x * float("nan"), y), val_batch)]))
