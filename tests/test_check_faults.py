"""check_tangents names the part that is off, by how much, and what cures it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import tree_map
from tests.cases import tanh_mlp
from tests.checked import checked, errors, mlp, named, problem_of
from tests.reference import central_difference


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


def test_a_second_derivative_that_is_not_finite_is_found_and_differences_are_right():
    """A power 3/2 of weights that are 0 and stay there: its gradient is 0, its product 0 · inf."""

    def loss_fn(params, buffers, batch):
        return (batch[0] @ params["w"]).cos().mean() + (params["still"].abs() ** 1.5).sum(), buffers

    params = {"w": torch.ones(5), "still": torch.zeros(2)}
    problem = problem_of(mlp())._replace(loss_fn=loss_fn, params=params)
    check = checked(problem)["lr"]
    assert named(check) == ["product"] and "norm, power or division at 0 in the" in check.says[0]
    cured = checked(problem, hvp=atf.finite_difference(central=True))["lr"]
    assert cured.relative_error < 1e-6 and cured.says == ()


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
