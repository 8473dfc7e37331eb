"""Products where torch has a hole: right, by another way of computing them, or refused in words.

Numbers are held against central differences of the plain gradient, which knows none of the detours.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, rnn
from torch.utils.checkpoint import checkpoint

import adatune_func as atf
from adatune_func.curvature import Gradient
from adatune_func.trees import dot, norm, tree_map

EXACT = [atf.forward_over_reverse, atf.reverse_over_reverse]
PRODUCTS = [*EXACT, atf.gauss_newton]


def product(f: atf.Functional, hvp: Any, batch: Any, v: Any) -> Any:
    """``(gradient, H v)``, one column."""
    grads, products, _ = hvp(Gradient(f.loss_fn, f.buffers), f.params, batch, v)
    return grads, tree_map(lambda leaf: leaf[0], products)


def direction(f: atf.Functional) -> Any:
    generator = torch.Generator().manual_seed(5)

    def like(p: torch.Tensor) -> torch.Tensor:
        return torch.randn(1, *p.shape, generator=generator, dtype=p.dtype)

    return tree_map(like, f.params)


def by_differences(f: atf.Functional, batch: Any, v: Any, eps: float = 1e-5) -> Any:
    """``(∇L(w + εv) - ∇L(w - εv)) / 2ε``, O(ε²) off."""
    grad_fn = Gradient(f.loss_fn, f.buffers)
    ahead, behind = (
        grad_fn(tree_map(lambda w, d, e=e: w + e * d[0], f.params, v), batch)[0]
        for e in (eps, -eps)
    )
    return tree_map(lambda a, b: (a - b) / (2 * eps), ahead, behind)


def off_by(one: Any, other: Any) -> float:
    return float(norm(tree_map(torch.sub, one, other)) / norm(other))


def in_a_process(work: Any, *args: Any) -> None:
    """What may end the process it runs in (exit code -11) must not take the tests with it."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=args)
    process.start()
    process.join(240)
    assert process.exitcode == 0


# Losses

KEEP = ("mean", "sum")
WEIGHT = torch.linspace(0.5, 2.0, 12, dtype=torch.float64).reshape(6, 2)


def own_huber(output, target):
    error = (output - target).abs()
    return torch.where(error < 1, error.square() / 2, error - 0.5).mean()


#: Criteria by name; targets are 6 x 2 numbers in (0, 1) if not said otherwise.
LOSSES: dict[str, Any] = {
    **{f"mse_{r}": nn.MSELoss(reduction=r) for r in KEEP},
    **{f"huber_{r}": nn.HuberLoss(reduction=r, delta=0.3) for r in KEEP},
    **{f"smooth_l1_{r}": nn.SmoothL1Loss(reduction=r, beta=0.3) for r in KEEP},
    **{f"poisson_{r}": nn.PoissonNLLLoss(reduction=r, full=True) for r in KEEP},
    **{f"soft_margin_{r}": lambda o, t, r=r: F.soft_margin_loss(o, 2 * t.round() - 1, reduction=r)
       for r in KEEP},
    **{f"bce_{r}": nn.BCEWithLogitsLoss(reduction=r, weight=WEIGHT, pos_weight=WEIGHT[0])
       for r in KEEP},
    "mse": F.mse_loss,
    "huber": F.huber_loss,
    "mse_none": lambda o, t: F.mse_loss(o, t, reduction="none").sum(1).mean(),
    "mse_weighted": lambda o, t: F.mse_loss(o, t, weight=WEIGHT),  # pyright: ignore[reportCallIssue]
    "huber_weighted": lambda o, t: F.huber_loss(o, t, "mean", 0.3, WEIGHT),  # pyright: ignore[reportCallIssue]
    "huber_none": lambda o, t: (WEIGHT * F.huber_loss(o, t, reduction="none")).mean(),
    "mse_positional": lambda o, t: F.mse_loss(o, t, None, None, "sum"),
    "mse_of_a_constant": lambda o, t: F.mse_loss(o, (t > 0.5).double()),
    "mse_of_a_detached": lambda o, t: F.mse_loss(o, t) + F.mse_loss(o, o.detach().round()),
    "mse_of_integers": lambda o, t: F.mse_loss(o, (4 * t).long()),
    "l1": lambda o, t: F.l1_loss(o.square(), t),
    "gaussian": lambda o, t: F.gaussian_nll_loss(o[:, :1], t[:, :1], o[:, 1:].exp()),
    "kl_div": lambda o, t: F.kl_div(o.log_softmax(1), t.softmax(1), reduction="batchmean"),
    "cross_entropy_soft": lambda o, t: F.cross_entropy(o, t.softmax(1), label_smoothing=0.1),
    "own": own_huber,
}  # fmt: skip


def regression(criterion: Any, hidden: bool) -> tuple[atf.Functional, Any]:
    """With ``hidden`` layers a tanh network, else a linear one: there Gauss-Newton is exact."""
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)] if hidden else [nn.Linear(3, 2)]
    batch = torch.randn(6, 3, dtype=torch.float64), torch.rand(6, 2, dtype=torch.float64)
    return atf.functionalize(nn.Sequential(*layers).double(), criterion), batch


@pytest.mark.parametrize("hvp", PRODUCTS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_has_its_products(name, hvp):
    f, batch = regression(LOSSES[name], hidden=hvp is not atf.gauss_newton)
    v = direction(f)
    grads, hv = product(f, hvp, batch, v)
    assert off_by(grads, Gradient(f.loss_fn, f.buffers)(f.params, batch)[0]) < 1e-13
    assert off_by(hv, by_differences(f, batch, v)) < 1e-7


def compiled_as_eager(compiler: Callable[..., Any], hvps: list[Any], names: list[str]) -> None:
    """All in one graph: a compile each would take minutes."""
    torch.set_num_threads(1)
    problems = [
        (hvp, *regression(LOSSES[name], hidden=hvp is not atf.gauss_newton))
        for name in names
        for hvp in hvps
    ]
    directions = [direction(f) for _, f, _ in problems]

    def products(directions: list[Any]) -> list[Any]:
        triples = zip(problems, directions, strict=True)
        return [product(f, hvp, batch, v) for (hvp, f, batch), v in triples]

    compiled = compiler(products, backend="aot_eager")(directions)
    for one, other in zip(compiled, products(directions), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def by_dynamo(fn: Callable[..., Any], backend: str) -> Callable[..., Any]:
    return torch.compile(fn, fullgraph=True, backend=backend)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("compiler", "hvps", "names"),
    [
        (atf.jit, [atf.exact, atf.gauss_newton], list(LOSSES)),
        (by_dynamo, [atf.exact], ["mse", "gaussian"]),
    ],
)
def test_losses_have_the_same_products_compiled(compiler, hvps, names):
    """pytorch#123996, #197067: a segmentation fault, without the decomposition of ZeroTensors."""
    in_a_process(compiled_as_eager, compiler, hvps, names)


def a_step_as_eager(backend: str, width: int, hparams: dict[str, float]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, width)).double()
    batch = torch.randn(6, 3, dtype=torch.float64), torch.rand(6, width, dtype=torch.float64)
    f = atf.functionalize(module, F.mse_loss)
    tuner = atf.marthe(f.loss_fn, atf.sgd(momentum=0.9))
    one = two = tuner.init(f.params, hparams)
    step = atf.jit(tuner.step, backend=backend)
    for _ in range(2):
        one, _ = tuner.step(one, batch, batch)
        two, _ = step(two, batch, batch)
    assert float(two.hparams["lr"]) != hparams["lr"]
    for a, b in ((one.params, two.params), (one.z.params, two.z.params)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("backend", "width", "hparams"),
    [("aot_eager", 1, {"lr": 0.05}), ("aot_eager", 2, {"lr": 0.05, "momentum": 0.8})],
)
def test_a_step_of_regression_compiles(backend, width, hparams):
    in_a_process(a_step_as_eager, backend, width, hparams)


def test_a_loss_fn_of_ones_own_takes_mse_loss():
    torch.manual_seed(0)
    params = {"w": torch.randn(3, 2, dtype=torch.float64)}
    batch = torch.randn(6, 3, dtype=torch.float64), torch.rand(6, 2, dtype=torch.float64)

    def loss_fn(params, buffers, batch):
        return F.mse_loss((batch[0] @ params["w"]).tanh(), batch[1]), buffers

    f = atf.Functional(loss_fn, params, {})  # pyright: ignore[reportArgumentType]
    v = direction(f)
    assert off_by(product(f, atf.exact, batch, v)[1], by_differences(f, batch, v)) < 1e-7


# Layers


def frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


def frozen_bias(layer: nn.Module) -> nn.Module:
    layer.bias.requires_grad_(False)  # pyright: ignore[reportAttributeAccessIssue]
    return layer


class Penalised(nn.Module):
    """Several outputs; the loss takes a derivative with respect to the input, too."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.hidden(x).tanh()), {"hidden": self.hidden(x)}


LAYERS: dict[str, Any] = {
    "frozen_layer_norm": lambda: frozen(nn.LayerNorm(4)),
    "frozen_group_norm": lambda: frozen(nn.GroupNorm(2, 4)),
    "frozen_batch_norm": lambda: frozen(nn.BatchNorm1d(4)),
    "frozen_bias": lambda: frozen_bias(nn.LayerNorm(4)),
    "frozen_linear": lambda: frozen(nn.Linear(4, 4)),
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "weight_norm_dim1": lambda: parametrizations.weight_norm(nn.Linear(4, 4), dim=1),
}


def classifier(layer: nn.Module, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), layer, nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    batch = 2 * torch.randn(6, 3, dtype=dtype), torch.arange(6) % 3
    return atf.functionalize(module, F.cross_entropy), batch


@pytest.mark.parametrize("hvp", EXACT)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_its_products(name, hvp):
    f, batch = classifier(LAYERS[name]())
    v = direction(f)
    assert off_by(product(f, hvp, batch, v)[1], by_differences(f, batch, v)) < 1e-7


def layers_as_eager(compiler: Callable[..., Any], names: list[str]) -> None:
    torch.set_num_threads(1)
    problems = [classifier(LAYERS[name]()) for name in names]
    directions = [direction(f) for f, _ in problems]

    def products(directions: list[Any]) -> list[Any]:
        pairs = zip(problems, directions, strict=True)
        return [product(f, atf.exact, batch, v) for (f, batch), v in pairs]

    compiled = compiler(products, backend="aot_eager")(directions)
    for one, other in zip(compiled, products(directions), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("compiler", "names"), [(atf.jit, list(LAYERS)), (by_dynamo, ["frozen_layer_norm"])]
)
def test_layers_have_the_same_products_compiled(compiler, names):
    """A frozen norm failed by an internal assert, and every jvp of the process after it."""
    in_a_process(layers_as_eager, compiler, names)


def failed_then_fine() -> None:
    torch.manual_seed(0)
    f = atf.functionalize(nn.Linear(3, 4), F.multi_margin_loss)
    batch = torch.randn(6, 3), torch.arange(6) % 4
    tuner = atf.marthe(f.loss_fn, atf.sgd())
    state = tuner.init(f.params, {"lr": 0.1})
    with pytest.raises(NotImplementedError):
        torch.compile(tuner.step, fullgraph=True, backend="eager")(state, batch, batch)
    with pytest.raises(RuntimeError, match="Nested forward mode AD"):  # torch's own, left as it is
        torch.func.jvp(torch.sin, (torch.ones(2),), (torch.ones(2),))
    fine = atf.functionalize(nn.Linear(3, 4), F.cross_entropy)
    tuner = atf.marthe(fine.loss_fn, atf.sgd())
    _, info = tuner.step(tuner.init(fine.params, {"lr": 0.01}), batch, batch)
    assert info.accepted and info.hypergrads["lr"] != 0
    torch.func.jvp(torch.sin, (torch.ones(2),), (torch.ones(2),))


@pytest.mark.compiles
def test_a_failed_compile_leaves_the_process_usable():
    in_a_process(failed_then_fine)


@pytest.mark.parametrize("hvp", EXACT)
def test_several_outputs_and_a_derivative_inside_the_loss(hvp):
    torch.manual_seed(0)
    batch = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3

    def criterion(output, target):
        logits, more = output
        return F.cross_entropy(logits, target) + more["hidden"].square().mean()

    module = Penalised().double()
    f = atf.functionalize(module, criterion)

    def curved(params, buffers, batch):
        def energy(x):
            return torch.func.functional_call(module, params, (x,))[0].square().sum()

        hessians = torch.func.vmap(torch.func.hessian(energy))(batch[0])
        return f.loss_fn(params, buffers, batch)[0] + hessians.square().mean(), buffers

    own = f._replace(loss_fn=curved)  # pyright: ignore[reportArgumentType]
    for problem in (f, own):
        v = direction(problem)
        off = off_by(product(problem, hvp, batch, v)[1], by_differences(problem, batch, v))
        assert off < 1e-7


@pytest.mark.parametrize("hvp", [*PRODUCTS, atf.no_curvature, atf.finite_difference()])
def test_a_sparse_embedding_trains_as_a_dense_one(hvp):
    results = []
    for sparse in (True, False):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Flatten(), nn.Linear(8, 3))
        f = atf.functionalize(module.double(), F.cross_entropy)
        batch = torch.arange(8).reshape(4, 2), torch.arange(4) % 3
        tuner = atf.marthe(f.loss_fn, atf.sgd(momentum=0.9), hvp=hvp)
        state = tuner.init(f.params, {"lr": 0.1})
        for _ in range(3):
            state, _ = tuner.step(state, batch, batch)
        results.append(state)
    torch.testing.assert_close(results[0].params, results[1].params, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[0].z.params, results[1].z.params, rtol=1e-12, atol=1e-12)


# Recurrent networks


class Recurrent(nn.Module):
    """Its output at the end of each sequence, padded or packed."""

    def __init__(self, kind: str, packed: bool = False) -> None:
        super().__init__()
        self.cell = getattr(nn, kind)(2, 3, batch_first=True)
        self.out, self.packed = nn.Linear(3, 3), packed

    def forward(self, x):
        lengths = torch.tensor([5, 4, 2])
        if self.packed:
            packed = rnn.pack_padded_sequence(x, lengths, batch_first=True)
            hidden, _ = rnn.pad_packed_sequence(self.cell(packed)[0], batch_first=True)
        else:
            hidden = self.cell(x)[0]
        return self.out(hidden[torch.arange(3), lengths - 1])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("hvp", PRODUCTS)
def test_recurrent_networks_in_float32(kind, hvp):
    """oneDNN's LSTM, float32 only, has no second derivative (pytorch#99413): float64 judges."""
    torch.manual_seed(0)
    f = atf.functionalize(Recurrent(kind).double(), F.cross_entropy)
    batch, v = (torch.randn(3, 5, 2, dtype=torch.float64), torch.arange(3)), direction(f)
    exact = product(f, hvp, batch, v)[1]
    if hvp in EXACT:
        assert off_by(exact, by_differences(f, batch, v)) < 1e-7
    params, x, v = tree_map(torch.Tensor.float, (f.params, batch[0], v))
    single = product(f._replace(params=params), hvp, (x, batch[1]), v)[1]
    assert off_by(tree_map(torch.Tensor.double, single), exact) < 1e-5


@pytest.mark.parametrize("hvp", [*PRODUCTS, atf.no_curvature])
def test_packed_sequences_are_refused_and_padded_ones_named(hvp):
    """What the error names has the gradient that autograd has of the packed ones."""
    torch.manual_seed(0)
    module = Recurrent("LSTM", packed=True).double()
    batch = torch.randn(3, 5, 2, dtype=torch.float64), torch.arange(3)
    f = atf.functionalize(module, F.cross_entropy)
    with pytest.raises(NotImplementedError, match="gather its output at lengths - 1"):
        product(f, hvp, batch, direction(f))
    F.cross_entropy(module(batch[0]), batch[1]).backward()
    module.packed = False
    f = atf.functionalize(module, F.cross_entropy)
    grads, _ = product(f, hvp, batch, direction(f))
    assert off_by(grads, {name: p.grad for name, p in module.named_parameters()}) < 1e-12


def test_only_the_lstm_goes_without_onednn():
    seen = []

    class Watched(Recurrent):
        def forward(self, x):
            seen.append(torch.backends.mkldnn.enabled)
            return super().forward(x)

    f = atf.functionalize(Watched("LSTM"), F.cross_entropy)
    product(f, atf.exact, (torch.randn(3, 5, 2), torch.arange(3)), direction(f))
    assert seen and set(seen) == {torch.backends.mkldnn.enabled}


# Two precisions


class Autocast(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.module(x)


NORMS = {
    "layer_norm": lambda: nn.LayerNorm(16),
    "batch_norm": lambda: nn.BatchNorm1d(16),
    "group_norm": lambda: nn.GroupNorm(2, 16),
    "rms_norm": lambda: nn.RMSNorm(16),
    "instance_norm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 8)), nn.InstanceNorm1d(2, affine=True), nn.Flatten()
    ),
}


@pytest.mark.parametrize("hvp", PRODUCTS)
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_under_autocast(name, hvp):
    """As in float32, up to the eight bits of bfloat16."""

    def at(wrap: Any) -> Any:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 16), NORMS[name](), nn.GELU(), nn.Linear(16, 3))
        f = atf.functionalize(wrap(module), F.cross_entropy)
        values = list(direction(f).values())
        v = dict(zip(f.params, values, strict=True))
        batch = torch.randn(16, 3), torch.arange(16) % 3
        return list(product(f, hvp, batch, v)[1].values())

    mixed, single = at(Autocast), at(lambda module: module)
    assert float(dot(mixed, single) / norm(mixed) / norm(single)) > 0.998
    assert float(norm(mixed) / norm(single)) == pytest.approx(1, abs=0.05)


# What says what to do, and is taken at its word


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.inner, self.out, self.reentrant = nn.Linear(3, 4), nn.Linear(4, 3), reentrant

    def forward(self, x):
        def block(x):
            return torch.tanh(self.inner(x))

        if self.reentrant is None:
            return self.out(block(x))
        return self.out(checkpoint(block, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("hvp", [*PRODUCTS, atf.no_curvature, atf.finite_difference()])
def test_checkpointing_is_refused_and_accumulation_named(hvp, reentrant):
    f = atf.functionalize(Checkpointed(reentrant), F.cross_entropy)
    with pytest.raises(NotImplementedError, match=r"hvp=accumulate\(exact, m\)"):
        product(f, hvp, (torch.randn(4, 3), torch.arange(4) % 3), direction(f))


def test_accumulation_is_what_checkpointing_would_be():
    torch.manual_seed(0)
    f = atf.functionalize(Checkpointed(None).double(), F.cross_entropy)
    batch = torch.randn(4, 3, dtype=torch.float64), torch.arange(4) % 3
    v = direction(f)
    grads, hv = product(f, atf.accumulate(atf.exact, 2), batch, v)
    assert off_by(grads, product(f, atf.exact, batch, v)[0]) < 1e-13
    assert off_by(hv, by_differences(f, batch, v)) < 1e-7


class Sine(torch.autograd.Function):
    """A gradient and no jvp, as most that are written."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad * ctx.saved_tensors[0].cos()


class Apply(nn.Module):
    def forward(self, x):
        return Sine.apply(x)


def test_a_function_without_jvp_has_a_reverse_product():
    f, batch = classifier(Apply())
    v = direction(f)
    with pytest.raises(NotImplementedError, match="take hvp=reverse_over_reverse, exact as well"):
        product(f, atf.exact, batch, v)
    assert off_by(product(f, atf.reverse_over_reverse, batch, v)[1],
                  by_differences(f, batch, v)) < 1e-7  # fmt: skip


class Distances(nn.Module):
    def forward(self, x):
        return torch.cdist(x, x[:4])


@pytest.mark.parametrize("hvp", PRODUCTS)
def test_what_has_gradients_only_has_differences(hvp):
    f, batch = classifier(Distances())
    v = direction(f)
    with pytest.raises(NotImplementedError, match=r"hvp=finite_difference\(\)"):
        product(f, hvp, batch, v)
    rough = product(f, atf.finite_difference(central=True), batch, v)[1]
    assert off_by(rough, by_differences(f, batch, v)) < 1e-6


def test_a_derivative_by_autograd_inside_the_loss():
    params = {"w": torch.ones(3)}

    def loss_fn(params, buffers, batch):
        x = batch.clone().requires_grad_()
        energy = (x @ params["w"]).tanh().sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0].square().mean(), buffers

    tuner = atf.marthe(loss_fn, atf.sgd())
    with pytest.raises(NotImplementedError, match=r"torch.func.grad\(fn\)\(x\)"):
        tuner.step(tuner.init(params, {"lr": 0.1}), torch.randn(4, 3), torch.randn(4, 3))


def test_differences_with_dropout_and_batch_norm():
    f, batch = classifier(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)))
    with pytest.raises(RuntimeError, match="take an exact hvp, which shares its dropout mask"):
        product(f, atf.finite_difference(randomness="same"), batch, direction(f))
    grads, hv = product(f, atf.exact, batch, direction(f))
    assert all(leaf.isfinite().all() for leaf in (*grads.values(), *hv.values()))
