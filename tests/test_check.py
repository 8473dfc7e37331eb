"""check_tangents says what is right, what is off, by how much, and in which precision."""

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
from tests.cases import Problem, needs_sdpa_kernel, relu_mlp, tanh_mlp
from tests.reference import central_difference

LR = {"lr": 0.3}


def checked(problem: Problem, optimizer=None, hparams=None, **options):
    return atf.check_tangents(
        problem.loss_fn,
        optimizer or atf.sgd(momentum=0.9),
        problem.params,
        hparams or LR,
        problem.batches,
        buffers=problem.buffers,
        **options,
    )


def problem_of(module, criterion=F.cross_entropy, draw=None, steps=3, train=True):
    draw = draw or (lambda: (torch.randn(6, 5), torch.randint(3, (6,))))
    loss_fn, params, buffers = atf.functionalize(module, criterion, train=train)
    return Problem(loss_fn, params, buffers, [(draw(), draw()) for _ in range(steps)])


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def errors(check):
    return {part.part: part.relative_error for part in check.parts}


# What is right


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
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.count = mlp(), 0

        def forward(self, x):
            self.count += 1
            return self.body(x) * (1 + 0.1 * (self.count % 3))

    with pytest.raises(ValueError, match="two runs of the same numbers differ"):
        checked(problem_of(Counting()))


# What is off, and where


def named(check):
    """The part that each sentence names."""
    words = {"product": "the product", "optimizer": "the optimizer's", "buffers": "the buffers"}
    words["outer gradient"] = "the outer gradient"
    return [
        part for sentence in check.says for part, word in words.items() if word in sentence[:30]
    ]


class Straight(torch.autograd.Function):
    """Forward bends, backward does not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x + 0.3 * torch.sin(3 * x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        return grads[0]

    @staticmethod
    def jvp(ctx, *tangents):
        return tangents[0]


def own_targets(output, y):
    return F.cross_entropy(output, torch.softmax(2 * output, -1).detach())


def own_weights(output, y):
    losses = F.cross_entropy(output, y, reduction="none")
    return (losses * torch.softmax(losses.detach(), 0)).sum()


def straight_by_detach(output, y):
    return F.cross_entropy(output + (0.3 * torch.sin(3 * output)).detach(), y)


def straight_by_function(output, y):
    return F.cross_entropy(Straight.apply(output), y)


def item_in_a_factor(output, y):
    loss = F.cross_entropy(output, y)
    return loss / (1 + loss.item())


def detached_scale(output, y):
    loss = F.cross_entropy(output, y)
    return loss / loss.detach()


def targets_under_no_grad(output, y):
    with torch.no_grad():
        targets = torch.softmax(2 * output, -1)
    return F.cross_entropy(output, targets)


def detached_maximum(output, y):
    return F.cross_entropy(output - output.max(-1, keepdim=True).values.detach(), y)


STOPPED = [
    own_targets,
    own_weights,
    straight_by_detach,
    straight_by_function,
    item_in_a_factor,
    detached_scale,
]


@pytest.mark.parametrize("criterion", STOPPED, ids=lambda c: c.__name__)
def test_a_stopped_gradient_is_found_and_differences_are_right(criterion):
    """The outer loss is plain cross-entropy; what is trained has no Hessian."""
    problem, plain = problem_of(mlp(), criterion, steps=4), problem_of(mlp())
    check = checked(problem, val_loss_fn=plain.loss_fn)["lr"]
    assert named(check) == ["product"] and check.relative_error > 1e-4
    assert errors(check)["product"] > 0.01
    assert "detach, .item(), no_grad or straight-through" in check.says[0]
    assert "params['" in check.says[0] and "hvp=finite_difference(central=True)" in check.says[0]
    cured = checked(problem, val_loss_fn=plain.loss_fn, hvp=atf.finite_difference(central=True))[
        "lr"
    ]
    assert cured.relative_error < 1e-6 and cured.cosine > 1 - 1e-9 and cured.says == ()


def test_no_grad_is_seen_through_by_forward_mode_only():
    problem, plain = problem_of(mlp(), targets_under_no_grad, steps=4), problem_of(mlp())
    exact, reverse = (
        checked(problem, val_loss_fn=plain.loss_fn, hvp=hvp)["lr"]
        for hvp in (atf.exact, atf.reverse_over_reverse)
    )
    assert exact.relative_error < 1e-6 and exact.says == ()
    assert named(reverse) == ["product"] and "no slope of the loss" in reverse.says[0]


def test_a_detach_that_changes_no_value_is_no_alarm():
    problem = problem_of(mlp(), detached_maximum)
    for hvp in (atf.exact, atf.reverse_over_reverse):
        check = checked(problem, hvp=hvp)["lr"]
        assert check.relative_error < 1e-6 and check.says == ()


def test_a_detach_in_the_outer_loss_is_found():
    problem, stopped = problem_of(mlp()), problem_of(mlp(), own_weights)
    check = checked(problem, val_loss_fn=stopped.loss_fn)["lr"]
    assert named(check) == ["outer gradient"] and errors(check)["product"] < 1e-6


@pytest.mark.parametrize(("hvp", "least"), [(atf.gauss_newton, 0.1), (atf.no_curvature, 0.999999)])
def test_an_approximate_product_is_said_to_be_one(hvp, least):
    check = checked(problem_of(mlp()), hvp=hvp)["lr"]
    assert named(check) == ["product"] and "approximates H" in check.says[0]
    assert least < errors(check)["product"] < 1.5 and errors(check)["optimizer"] < 1e-6


class WrongSquare(torch.autograd.Function):
    """``x²`` with a right gradient, whose own derivative is half of what it should be."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, *grads):
        (x,) = ctx.saved_tensors
        return grads[0] * (x + x.detach())


def test_a_wrong_second_derivative_of_a_layer_is_told_from_a_stopped_gradient():
    problem = problem_of(mlp(), lambda output, y: F.cross_entropy(WrongSquare.apply(output), y))
    check = checked(problem, hvp=atf.reverse_over_reverse)["lr"]
    assert named(check) == ["product"]
    assert "a layer's second derivative is wrong" in check.says[0]


def rmsprop(sqrt=torch.sqrt, stop=False):
    """An optimizer of a user's own."""

    def update(grads, square, params, hparams):
        square = tree_map(lambda s, g: 0.9 * s + 0.1 * g * g, square, grads)
        scale = square if not stop else tree_map(torch.Tensor.detach, square)
        step = tree_map(lambda g, s: -hparams["lr"] * g / (sqrt(s) + 1e-4), grads, scale)
        return step, square

    return atf.Optimizer(lambda p: tree_map(torch.zeros_like, p), update, {"lr": 1e-3})


def unseen_rows(steps=3):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Tanh(), nn.Linear(8, 3))
    return problem_of(
        module.double(),
        draw=lambda: (torch.randint(5, (6, 2)), torch.randint(3, (6,))),
        steps=steps,
    )


def test_a_square_root_at_zero_is_found_with_optimizer_and_leaf():
    check = checked(unseen_rows(), rmsprop(), {"lr": 1e-3})["lr"]
    assert named(check) == ["optimizer"] and check.relative_error == float("inf")
    assert "(rmsprop)" in check.says[0] and "params['0.weight']" in check.says[0]
    assert "adatune_func.safe_sqrt" in check.says[0] and "at step 0" in check.says[0]
    problem = unseen_rows()
    cured = checked(problem, rmsprop(atf.safe_sqrt), {"lr": 1e-3})["lr"]
    assert cured.says == () and cured.relative_error < 1e-4
    want = central_difference(problem, rmsprop(), {"lr": 1e-3}, "lr")
    assert cured.hypergrad == pytest.approx(want, rel=1e-4)


def test_only_the_column_that_is_not_finite_is_judged():
    """A hyperparameter whose own tangent overflows; along lr it is 0."""

    def update(grads, state, params, hparams):
        lost = hparams["bad"] * 1e308 * 1e10
        return tree_map(lambda g: -(hparams["lr"] + lost) * g, grads), state

    problem, hparams = problem_of(mlp()), {"lr": 0.1, "bad": 0.0}
    optimizer = atf.Optimizer(lambda params: (), update, hparams)
    found = checked(problem, optimizer, hparams)
    assert found["lr"].says == () and found["lr"].relative_error < 1e-6
    assert named(found["bad"]) == ["optimizer"] and "not finite" in found["bad"].says[0]


def test_a_detach_in_the_optimizer_is_found():
    check = checked(tanh_mlp(), rmsprop(stop=True), {"lr": 1e-3})["lr"]
    assert named(check) == ["optimizer"] and check.relative_error > 1e-4
    assert errors(check)["product"] < 1e-6 < errors(check)["optimizer"]
    assert checked(tanh_mlp(), rmsprop(), {"lr": 1e-3})["lr"].says == ()


def test_the_path_through_buffers_is_found():
    """An eval-mode outer loss reads the running statistics that training moves."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    problem, frozen = problem_of(module), problem_of(module, train=False)
    check = checked(problem, val_loss_fn=frozen.loss_fn)["lr"]
    assert named(check) == ["buffers"] and check.relative_error > 0.001
    share = (check.difference - check.hypergrad) / check.difference
    assert errors(check)["buffers"] == pytest.approx(abs(share), rel=1e-4)
    assert "train mode" in check.says[0] and checked(problem)["lr"].says == ()


class Remembering(nn.Module):
    """Activations less their mean at the step before, which is a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        before, hidden = self.get_buffer("mean").clone(), self.first(x)
        self.get_buffer("mean").copy_(hidden.detach().mean(0))
        return self.last(torch.tanh(hidden - before))


def test_buffers_that_training_itself_reads_are_found():
    torch.manual_seed(0)
    check = checked(problem_of(Remembering(), steps=4))["lr"]
    assert named(check) == ["buffers"]
    share = (check.difference - check.hypergrad) / check.difference
    assert errors(check)["buffers"] == pytest.approx(abs(share), rel=1e-4)


def test_it_prints_as_a_report():
    check = checked(problem_of(mlp()), hvp=atf.gauss_newton)["lr"]
    assert str(check) == repr(check)
    assert f"{check.hypergrad:.6g}" in str(check) and "float64" in str(check)
    assert f"product relative error {errors(check)['product']:.1e}" in str(check)
    assert f"* {check.says[0]}" in str(check)
