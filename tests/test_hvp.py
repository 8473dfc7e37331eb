"""Every way to get products: right against dense Hessians, one look at the batch, right shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import hessian, jacrev
from torch.utils._python_dispatch import TorchDispatchMode

import adatune_func as atf
from adatune_func.curvature import Gradient
from adatune_func.curvature.kernels import derivable
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import (
    EXACT_HVPS,
    HVPS,
    PROBLEMS,
    conv_batchnorm,
    dropout_mlp,
    in_channels_last,
    start,
    tanh_mlp,
)

MEANS = {  # equal to the exact product for a mean over samples without BatchNorm
    "accumulated": atf.accumulate(atf.exact, 4),
    "accumulated_reverse": atf.accumulate(atf.reverse_over_reverse, 2),
    "whole_fraction": atf.on_fraction(atf.exact, 1),
    "clipped_at_nothing": atf.clip_products(atf.exact, 1e9),
}


def directions(params, columns):
    return tree_map(lambda p: torch.randn(columns, *p.shape, dtype=p.dtype), params)


def products(hvp, problem, columns=1, batch=None, v=None):
    torch.manual_seed(0)
    v = directions(problem.params, columns) if v is None else v
    grad_fn = Gradient(problem.loss_fn, problem.buffers)
    return v, *hvp(grad_fn, problem.params, batch or problem.batches[0][0], v)


def flat(tree):
    """Columns as rows of a matrix, in the tree's order."""
    return torch.cat([leaf.flatten(1) for leaf in tree_leaves(tree)], 1)


def unflatten(vector, like):
    leaves = tree_leaves(like)
    parts = vector.split([leaf.numel() for leaf in leaves])
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return dict(zip(sorted(like), shaped, strict=True))


def dense(problem, fn, rows=None) -> Tensor:
    """``fn(flat params -> what) -> matrix`` at the problem's start, by reverse mode alone."""
    w = flat(tree_map(lambda p: p[None], problem.params))[0]
    batch = tree_map(lambda leaf: leaf[:rows], problem.batches[0][0])
    return fn(w, lambda w: unflatten(w, problem.params), batch)


def trained(problem, tuner, step=None):
    """State and info after all batches."""
    state, info = start(problem, tuner, {"lr": 0.1}), None
    for batch, val_batch in problem.batches:
        state, info = (step or tuner.step)(state, batch, val_batch)
        assert info.accepted
    assert info is not None
    return state, info


def dense_hessian(problem, rows=None) -> Tensor:
    def matrix(w, tree, batch):
        # not torch.func.hessian: of a convolution before a BatchNorm it is wrong (torch 2.13)
        return torch.autograd.functional.hessian(
            lambda w: problem.loss_fn(tree(w), problem.buffers, batch)[0], w
        )

    return dense(problem, matrix, rows)


def dense_gauss_newton(problem) -> Tensor:
    model_fn, criterion = problem.loss_fn

    def matrix(w, tree, batch):
        def output(w):
            return model_fn(tree(w), problem.buffers, batch)[0]

        jacobian = jacrev(output)(w)
        bend = hessian(lambda o: criterion(o, batch))(output(w))
        return torch.einsum("abi,abcd,cdj->ij", jacobian, bend, jacobian)

    return dense(problem, matrix)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("hvp", EXACT_HVPS)
def test_exact_products_are_those_of_the_dense_hessian(hvp, problem, columns):
    problem = PROBLEMS[problem]()
    v, grads, hv, (loss, buffers) = products(HVPS[hvp], problem, columns)
    torch.testing.assert_close(flat(hv), flat(v) @ dense_hessian(problem))
    want, (want_loss, want_buffers) = Gradient(problem.loss_fn, problem.buffers)(
        problem.params, problem.batches[0][0]
    )
    torch.testing.assert_close((grads, loss, buffers), (want, want_loss, want_buffers))


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("hvp", MEANS)
def test_parts_of_a_batch_sum_to_the_whole(hvp, columns):
    problem = tanh_mlp()
    v, *whole = products(atf.exact, problem, columns)
    torch.testing.assert_close(products(MEANS[hvp], problem, columns, v=v)[1:], (*whole,))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_gauss_newton_products_are_those_of_the_dense_matrix(problem):
    problem = PROBLEMS[problem]()
    v, grads, gv, aux = products(atf.gauss_newton, problem, 3)
    torch.testing.assert_close(flat(gv), flat(v) @ dense_gauss_newton(problem))
    torch.testing.assert_close((grads, aux), (lambda p: (p[1], p[3]))(products(atf.exact, problem)))
    assert ((flat(v) * flat(gv)).sum(1) >= 0).all()


def test_gauss_newton_of_a_linear_model_is_the_hessian():
    torch.manual_seed(0)
    loss_fn, params, _ = atf.functionalize(nn.Linear(6, 5).double(), F.cross_entropy)
    problem = tanh_mlp()._replace(loss_fn=loss_fn, params=params)
    v, *exact = products(atf.exact, problem)
    torch.testing.assert_close(products(atf.gauss_newton, problem, v=v)[1:], (*exact,))


def test_gauss_newton_says_what_it_needs():
    problem = tanh_mlp()
    opaque = problem._replace(loss_fn=lambda *arguments: problem.loss_fn(*arguments))
    with pytest.raises(TypeError, match="functionalize"):
        products(atf.gauss_newton, opaque)
    open_again = opaque._replace(loss_fn=atf.ModelLoss(*problem.loss_fn))
    products(atf.gauss_newton, open_again)


@pytest.mark.parametrize(("central", "tolerance"), [(False, 1e-2), (True, 1e-3)])
@pytest.mark.parametrize("problem", [tanh_mlp, conv_batchnorm])
def test_differences_agree_with_exact_products_in_single_precision(problem, central, tolerance):
    problem = problem(dtype=torch.float32)
    v, _, exact, _ = products(atf.exact, problem, 2)
    _, grads, hv, _ = products(atf.finite_difference(central=central), problem, 2, v=v)
    assert (flat(hv) - flat(exact)).norm() < tolerance * flat(exact).norm()
    torch.testing.assert_close(grads, products(atf.exact, problem)[1])


def test_differences_along_nothing_are_nothing():
    problem = tanh_mlp()
    zero = tree_map(torch.zeros_like, directions(problem.params, 2))
    for central in (False, True):
        hv = products(atf.finite_difference(central=central), problem, v=zero)[2]
        assert (flat(hv) == 0).all()


def test_a_fraction_gives_its_products_and_the_whole_its_gradient():
    problem = conv_batchnorm()
    v, grads, hv, (loss, buffers) = products(atf.on_fraction(atf.exact, 0.25), problem, 2)
    torch.testing.assert_close(flat(hv), flat(v) @ dense_hessian(problem, rows=3))
    _, want, _, aux = products(atf.exact, problem, v=v)
    torch.testing.assert_close((grads, (loss, buffers)), (want, aux))


def test_accumulated_buffers_are_those_of_the_last_part():
    problem = conv_batchnorm()
    x, y = problem.batches[0][0]
    buffers = products(atf.accumulate(atf.exact, 3), problem)[3][1]
    _, last = problem.loss_fn(problem.params, problem.buffers, (x[8:], y[8:]))
    torch.testing.assert_close(buffers, last)


def test_an_accumulated_run_has_the_hypergradient_of_the_whole():
    problem, h = tanh_mlp(), []
    for hvp in (atf.exact, atf.accumulate(atf.exact, 4)):
        tuner = atf.rtho(
            problem.loss_fn, atf.sgd(momentum=0.9), hyper_update=atf.additive(1e-2), hvp=hvp
        )
        h.append(trained(problem, tuner)[1].hypergrads["lr"])
    torch.testing.assert_close(h[0], h[1], rtol=1e-10, atol=0)


def test_clipped_products_stay_inside():
    problem = tanh_mlp()
    v, grads, hv, aux = products(atf.exact, problem, 2)
    _, *clipped = products(atf.clip_products(atf.exact, 1e-2), problem, v=v)
    want = tree_map(lambda leaf: leaf.clamp(-1e-2, 1e-2), hv)
    assert (flat(want) != flat(hv)).any()
    torch.testing.assert_close(clipped, [grads, want, aux])


def test_a_fraction_at_its_own_weight_takes_no_more_than_the_whole():
    problem = tanh_mlp()
    v, _, whole, _ = products(atf.gauss_newton, problem, 20)
    scaled = atf.scale_products(atf.on_fraction(atf.gauss_newton, 0.25), 0.25)
    _, grads, part, _ = products(scaled, problem, v=v)
    taken, all_of_it = ((flat(v) * flat(gv)).sum(1) for gv in (part, whole))
    assert (taken > 0).all() and (taken <= all_of_it).all()
    torch.testing.assert_close(grads, products(atf.exact, problem)[1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: atf.on_fraction(atf.exact, 0.0), r"fraction must lie in \(0, 1\], got 0"),
        (lambda: atf.on_fraction(atf.exact, 1.5), "got 1.5"),
        (lambda: atf.accumulate(atf.exact, 0), "parts must be 1 or more, got 0"),
        (lambda: products(atf.on_fraction(atf.exact, 0.01), tanh_mlp()), "of 16 samples"),
        (lambda: products(atf.accumulate(atf.exact, 3), tanh_mlp()), "16 samples do not split"),
        (
            lambda: products(
                atf.accumulate(atf.exact, 2), tanh_mlp(), batch=(torch.ones(4, 6), torch.ones(()))
            ),
            "samples on dim 0",
        ),
    ],
)
def test_what_cannot_be_split_is_said_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    "hvp",
    [*map(HVPS.get, EXACT_HVPS), atf.gauss_newton, atf.finite_difference(randomness="same")],
)
def test_gradient_and_products_share_one_mask(hvp):
    """For ``Σ (mask w)²/2`` the gradient over w and the product over v are the mask squared."""
    params = {"w": torch.randn(64, dtype=torch.float64)}
    loss_fn = atf.ModelLoss(
        lambda p, b, batch: (F.dropout(p["w"]), b), lambda output, batch: output.square().sum() / 2
    )
    v = directions(params, 2)
    grads, hv, _ = hvp(Gradient(loss_fn, {}), params, torch.zeros(1), v)
    mask = grads["w"] / params["w"]
    assert 0 < (mask == 0).sum() < 64
    torch.testing.assert_close(hv["w"], mask * v["w"], rtol=1e-5, atol=1e-5)


def test_differences_refuse_dropout_in_words():
    with pytest.raises(RuntimeError, match="different dropout masks"):
        products(atf.finite_difference(), dropout_mlp())


def squared_error(output, target):
    return (output - target).square().mean()


def attention(layer=None):
    """Over five tokens of width 6; two heads of torch's own function unless told otherwise."""
    torch.manual_seed(6)
    problem = tanh_mlp()
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    if layer is not None:
        f = atf.functionalize(layer.double(), lambda output, x: (output - x).square().mean())
        return problem._replace(
            loss_fn=f.loss_fn, params=f.params, buffers=f.buffers, batches=[((x, x), (x, x))]
        )

    def loss_fn(params, buffers, batch):
        q = (batch @ params["q"]).unflatten(2, (2, 3)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, q).square().mean(), buffers

    params = {"q": torch.randn(6, 6, dtype=torch.float64)}
    return problem._replace(loss_fn=loss_fn, params=params, buffers={}, batches=[(x, x)])


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


ATTENTIONS = {
    "function": attention,
    "multihead": lambda: attention(SelfAttention()),
    "encoder": lambda: attention(
        nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, activation="gelu", batch_first=True)
    ),
}


@pytest.mark.parametrize("hvp", EXACT_HVPS)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_needs_no_context_manager(name, hvp):
    problem = ATTENTIONS[name]()
    v, _, hv, _ = products(HVPS[hvp], problem)
    with derivable():
        matrix = dense_hessian(problem)
    torch.testing.assert_close(flat(hv), flat(v) @ matrix)
    difference = products(atf.finite_difference(), problem, v=v)[2]
    assert (flat(difference) - flat(hv)).norm() < 1e-4 * flat(hv).norm()


@pytest.mark.parametrize("hvp", [*EXACT_HVPS, "gauss_newton"])
def test_only_the_product_takes_another_kernel_of_attention(hvp):
    """The outer pass, which needs gradients only, keeps torch's fast one."""
    problem, calls = attention(SelfAttention()), []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func.__name__)
            return func(*args, **(kwargs or {}))

    tuner = atf.marthe(problem.loss_fn, atf.sgd(), hvp=HVPS[hvp])
    state = start(problem, tuner, {"lr": 0.1})
    with Log():
        tuner.step(state, *problem.batches[0])
    fused = [i for i, name in enumerate(calls) if "_flash_attention" in name]
    softmax = [i for i, name in enumerate(calls) if "softmax" in name]
    assert len(fused) == 2 and softmax  # forward and backward of the outer pass
    assert max(softmax) < min(fused)


def test_tuners_with_different_products_take_turns_over_one_state():
    """Z advanced by curvature each other step: two tuners, one state, no branch."""
    problem, rule = tanh_mlp(), atf.additive(1e-3)
    full, cheap = (
        atf.marthe(problem.loss_fn, atf.sgd(momentum=0.9), hyper_update=rule, hvp=hvp)
        for hvp in (atf.exact, atf.no_curvature)
    )
    state = start(problem, full, {"lr": 0.1})
    for t, (batch, val_batch) in enumerate(problem.batches):
        state, info = (full, cheap)[t % 2].step(state, batch, val_batch)
        assert info.accepted


def in_bfloat16(problem):
    def model_fn(params, buffers, batch):
        with torch.autocast("cpu", torch.bfloat16):
            output, buffers = problem.loss_fn.model_fn(params, buffers, batch)
        return output, buffers

    return problem._replace(loss_fn=atf.ModelLoss(model_fn, problem.loss_fn.criterion))


@pytest.mark.parametrize(
    ("problem", "hvp", "backend"),
    [
        (tanh_mlp, "forward_over_reverse", None),
        pytest.param(tanh_mlp, "forward_over_reverse", "eager", marks=pytest.mark.compiles),
        (conv_batchnorm, "reverse_over_reverse", None),
        pytest.param(
            conv_batchnorm, "reverse_over_reverse", "aot_eager", marks=pytest.mark.compiles
        ),
        (conv_batchnorm, "gauss_newton", None),
    ],
)
def test_autocast_inside_the_loss_keeps_tangents_in_single_precision(problem, hvp, backend):
    full, h = problem(steps=2, dtype=torch.float32), []
    for problem in (full, in_bfloat16(full)):
        tuner = atf.rtho(
            problem.loss_fn, atf.sgd(momentum=0.9), hyper_update=atf.additive(0.0), hvp=HVPS[hvp]
        )
        step = tuner.step
        if backend:
            step = atf.jit(step, backend=backend)
        state, info = trained(problem, tuner, step)
        assert {leaf.dtype for leaf in tree_leaves((state.params, state.z))} == {torch.float32}
        h.append(float(info.hypergrads["lr"]))
    assert h[0] != h[1]
    assert h[1] == pytest.approx(h[0], rel=0.1 if hvp in EXACT_HVPS else 1.0)


@pytest.mark.parametrize("hvp", ["forward_over_reverse", "reverse_over_reverse", "gauss_newton"])
def test_channels_last_gives_the_same_numbers(hvp):
    problem = conv_batchnorm(channels=2)
    v, *plain = products(HVPS[hvp], problem, 2)
    _, *other = products(HVPS[hvp], in_channels_last(problem), v=v)
    torch.testing.assert_close(other, plain)


@pytest.mark.parametrize("preset", atf.presets)
def test_presets_are_arguments_of_marthe(preset):
    problem = conv_batchnorm(steps=3)
    rule = atf.additive(1e-3)
    tuner = atf.marthe(problem.loss_fn, atf.sgd(), hyper_update=rule, **atf.presets[preset])
    state, _ = trained(problem, tuner)
    assert float(state.hparams["lr"]) != 0.1
