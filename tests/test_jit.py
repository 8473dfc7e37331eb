"""``atf.jit``: the numbers of eager, one trace for each kind of arguments, errors in words."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config
from torch._inductor.utils import fresh_inductor_cache as fresh_cache
from torch.func import functional_call, grad, jvp, vmap

import adatune_func as atf
from adatune_func import search
from adatune_func.curvature import Gradient
from adatune_func.graphs.compiling import _bias_apart, compiler
from adatune_func.trees import (
    all_finite,
    columns,
    compat,
    is_transforming,
    torch_version,
    tree_leaves,
    tree_map,
)
from tests.cases import (
    COMPILED_ELSEWHERE,
    HVPS,
    METHODS,
    OPTIMIZERS,
    conv_batchnorm,
    dropout_mlp,
    in_channels_last,
    relu_mlp,
    start,
    tanh_mlp,
)

DECAY = ({}, {"weight_decay": 0.01})
ONE, TWO = {"lr": 0.05}, {"lr": 0.05, "weight_decay": 0.01}
GRAPHS = [name for name in OPTIMIZERS if name not in ("sgd", "sgd_momentum", *COMPILED_ELSEWHERE)]


def covering():
    """Each pair of (hvp, method), optimizers in turn; every second one tunes two numbers."""
    return [
        (GRAPHS[(i + j) % len(GRAPHS)], hvp, method, {"lr": 0.005, **DECAY[(i + j) % 2]})
        for i, hvp in enumerate(HVPS)
        for j, method in enumerate(METHODS)
        if "adaptive" not in method or not (i + j) % 2  # adaptive mu knows lr alone
    ]


def assert_equal(a, b, tolerance):
    for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
        assert x.stride() == y.stride()


def compare(tuner, problem, hparams, backend, tolerance=1e-12, donate=False):
    """Jitted beside eager, from the same state; hyperparameters have to move on the way."""
    step = atf.jit(tuner.step, donate, backend=backend)
    one = start(problem, tuner, hparams)
    two = tree_map(torch.clone, one)
    for batch, val_batch in problem.batches:
        one, info = tuner.step(one, batch, val_batch)
        two, its_info = step(two, batch, val_batch)
        assert its_info.accepted
        assert_equal((one, info), (two, its_info), tolerance)
    for name, value in hparams.items():
        assert float(one.hparams[name]) != value


@pytest.mark.parametrize(("optimizer", "hvp", "method", "hparams"), covering())
def test_jit_equals_eager(optimizer, hvp, method, hparams):
    problem = tanh_mlp(steps=3)
    tuner = METHODS[method](problem.loss_fn, OPTIMIZERS[optimizer], HVPS[hvp])
    # a difference divides the rounding of two gradients, 1e-16, by its step, 1e-8 at the least
    tolerance = 1e-7 if hvp.endswith("_difference") else 1e-12
    compare(tuner, problem, hparams, "eager", tolerance)


@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("layout", [lambda problem: problem, in_channels_last])
@pytest.mark.parametrize("hparams", [ONE, TWO])
@pytest.mark.compiles
def test_jit_equals_eager_with_batchnorm(layout, hparams, donate):
    problem = layout(conv_batchnorm(channels=2))
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd_nesterov"], atf.exact)
    compare(tuner, problem, hparams, "aot_eager", donate=donate)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("problem", "optimizer", "donate"),
    [(tanh_mlp(steps=200), "adam", True), (conv_batchnorm(), "sgd_nesterov", False)],
    ids=["200_steps", "conv_batchnorm"],
)
def test_jit_equals_eager_through_inductor(problem, optimizer, donate):
    tuner = METHODS["marthe_adaptive"](problem.loss_fn, OPTIMIZERS[optimizer], atf.exact)
    compare(tuner, problem, ONE, "inductor", 1e-10, donate)


@pytest.mark.parametrize("make", [tanh_mlp, conv_batchnorm])
def test_a_population_with_two_columns(make):
    problem = make(steps=3)
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd_nesterov"], atf.exact)
    together = search.stack([start(problem, tuner, {**TWO, "lr": lr}) for lr in (0.01, 0.1)])
    mapped = vmap(tuner.step, in_dims=(0, None, None))
    step = atf.jit(mapped, backend="eager")
    one = two = together
    for batch, val_batch in problem.batches:
        one, info = mapped(one, batch, val_batch)
        two, its_info = step(two, batch, val_batch)
        assert_equal((one, info), (two, its_info), 1e-12)


def test_a_sweep_takes_jit():
    problem = dropout_mlp(steps=2)
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd"], atf.exact)
    states = [start(problem, tuner, {"lr": lr}) for lr in (0.01, 0.1)]
    swept = search.sweep(
        tuner, states, problem.batches, wrap=lambda step: atf.jit(step, backend="eager")
    )
    masks = swept.infos.loss[:, 0] != swept.infos.loss[:, 1]
    assert masks.all()  # each draws its own


def test_two_calls_draw_two_masks_and_one_call_draws_one():
    def loss_fn(params, buffers, batch):
        return F.dropout(params["w"], 0.5).square().sum() / 4, buffers

    params, v = {"w": torch.randn(64)}, {"w": torch.randn(1, 64)}
    products = atf.jit(
        lambda params, v: atf.exact(Gradient(loss_fn, {}), params, torch.zeros(1), v)[:2],
        backend="eager",
    )
    before = torch.get_rng_state()
    products.graph(params, v)
    assert torch.equal(before, torch.get_rng_state())
    masks = []
    for _ in range(2):
        grads, hv = products(params, v)
        masks.append(grads["w"] / params["w"])
        torch.testing.assert_close(hv["w"], masks[-1] * v["w"])
        assert 0 < (masks[-1] == 0).sum() < 64
    assert not torch.equal(*masks)
    torch.set_rng_state(before)
    grads, _ = products(params, v)  # the same seed, the same mask: nothing but calls draws
    torch.testing.assert_close(grads["w"] / params["w"], masks[0])


@pytest.mark.compiles
def test_dropout_through_inductor_draws_anew():
    fn = atf.jit(lambda x: F.dropout(x, 0.5))
    one, two = fn(torch.ones(99)), fn(torch.ones(99))
    assert not torch.equal(one, two)


def counted(fn):
    """``fn`` and a list that grows by one at each trace of it."""
    traces = []

    def noted(*args):
        traces.append(1)
        return fn(*args)

    return noted, traces


def test_another_kind_of_arguments_is_another_trace():
    fn, traces = counted(lambda x, n: (x.sum(0), torch.is_grad_enabled(), torch.ones(1) @ x[:1], n))
    step = atf.jit(fn, backend="eager")
    x = torch.arange(6.0).reshape(2, 3)

    def same(*args):
        for a, b in zip(step(*args), fn(*args), strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
            assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
        traces.pop()  # by fn itself
        return len(traces)

    assert [same(x, 1), same(x + 1, 1)] == [1, 1]
    assert same(x.t().contiguous().t(), 1) == 2
    with torch.no_grad():
        assert [same(x, 1), same(x, 1)] == [3, 3]
    assert [same(x, True), same(x, 2), same(x, 1)] == [4, 5, 5]
    with torch.autocast("cpu", torch.bfloat16):
        assert same(x, 1) == 6
    assert same(x[:, :2], 1) == 7


def test_another_default_device_is_another_kind():
    step = atf.jit(lambda n: torch.ones(n), backend="eager")
    assert step(3).device.type == "cpu"
    with torch.device("meta"):
        assert step(3).device.type == "meta"
    assert step(3).device.type == "cpu"


def test_the_ninth_kind_is_refused_with_what_changed():
    fn = atf.jit(lambda x: {"y": x["x"] * 2}, backend="eager")
    for size in range(8):
        fn({"x": torch.ones(size + 1)})
    fn({"x": torch.ones(3)})
    with pytest.raises(RuntimeError, match=r"argument 0\.x is float32 \(9,\).*was.*\(8,\)"):
        fn({"x": torch.ones(9)})


def branches(x):
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (branches, r"test_jit\.py:\d+ \(return x if x.sum\(\) > 0 else -x\): .*torch\.where"),
        (vmap(branches), r"test_jit\.py:\d+ \(return x if.*torch\.where"),
        (lambda x: jvp(branches, (x,), (x,)), r"test_jit\.py:\d+ \(return x if"),
        (lambda x: x * x.sum().item(), r"test_jit\.py:\d+ .*leave numbers tensors"),
        (lambda x: x * float(x.sum()), r"test_jit\.py:\d+ .*leave numbers tensors"),
        (vmap(lambda x: x * x.sum().item()), r"test_jit\.py:\d+ .*leave numbers tensors"),
        (lambda x: x[x > 0], r"test_jit\.py:\d+ .*shape of a result depends"),
    ],
)
def test_what_depends_on_values_is_named_with_its_line(fn, words):
    with pytest.raises(TypeError, match=words):
        atf.jit(fn, backend="eager")(torch.ones(2, 3))
    # ... and nothing of the attempt stays: levels of forward mode and vmap, modes
    assert not is_transforming()
    x = torch.ones(2, 3)
    assert torch.equal(jvp(vmap(torch.sin), (x,), (x,))[1], x.cos())
    assert torch.equal(atf.jit(torch.sin, backend="eager")(x), x.sin())


def test_a_leaf_that_is_no_constant_is_named():
    with pytest.raises(TypeError, match=r"argument 1\.b is of type set: make it a tensor"):
        atf.jit(lambda x, y: x)(torch.ones(1), {"a": 3, "b": {1}})


def test_captured_parameters_are_refused_and_captured_constants_are_not():
    model, x = nn.Linear(3, 2), torch.ones(4, 3)
    for fn in (model, lambda x: grad(lambda x: model(x).sum())(x)):
        with pytest.raises(ValueError, match=r"shape \(2, 3\) that requires grad.*functionalize"):
            atf.jit(lambda x, fn=fn: fn(x), backend="eager")(x)
    with pytest.raises(ValueError, match=r"test_jit\.py:\d+ \(.*model\(x\)"):
        atf.jit(lambda x: model(x).detach(), backend="eager")(x)
    given = atf.jit(lambda params, x: functional_call(model, params, (x,)), backend="eager")
    torch.testing.assert_close(
        given({n: p.detach() for n, p in model.named_parameters()}, x), model(x)
    )
    model.requires_grad_(False)
    torch.testing.assert_close(atf.jit(lambda x: model(x), backend="eager")(x), model(x))


def test_functionalize_captures_nothing():
    problem = conv_batchnorm()
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd"], atf.exact)
    state = start(problem, tuner, ONE)
    graph = atf.jit(tuner.step).graph(state, *problem.batches[0]).graph
    assert not [node for node in graph.nodes if node.op == "get_attr"]


def test_a_result_that_requires_grad_is_refused():
    fn, x = atf.jit(torch.sin, backend="eager"), torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"carries no autograd graph"):
        fn(x)
    with torch.no_grad():
        assert not fn(x).requires_grad


def test_inside_a_transform_or_another_jit_it_is_the_function_itself():
    fn, traces = counted(lambda x: x.square().sum())
    inner = atf.jit(fn, backend="eager")
    x = torch.tensor([1.0, 2.0])
    assert torch.equal(grad(inner)(x), 2 * x)
    assert torch.equal(vmap(inner)(x[:, None]), x.square())
    outer = atf.jit(lambda x: inner(x) + grad(inner)(x), backend="eager")
    assert torch.equal(outer(x), 2 * x + 5) and torch.equal(outer(x), 2 * x + 5)
    assert len(traces) == 4
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones(2))
        assert torch.autograd.forward_ad.unpack_dual(inner(dual)).tangent == 6


REGRESSION = """
import torch, torch.nn.functional as F, adatune_func as atf
w = {"w": torch.ones(3, dtype=torch.float64)}
x = torch.arange(12, dtype=torch.float64).reshape(4, 3) / 12
for reduction in ("mean", "sum"):
    def loss_fn(params, buffers, batch):
        return F.mse_loss(batch @ params["w"], batch[:, 0], reduction=reduction), buffers
    tuner = atf.rtho(loss_fn, atf.sgd(momentum=0.9), hyper_update=atf.additive(1e-4))
    state = tuner.init(w, {"lr": 0.01})
    step = atf.jit(tuner.step)
    for _ in range(3):
        state, info = step(state, x, x)
    print(float(info.loss), float(info.hypergrads["lr"]))
"""


@pytest.mark.compiles
def test_regression_compiles_as_it_is():
    """In a process of its own: under ``torch.compile`` F.mse_loss ends it (pytorch#123996)."""
    done = subprocess.run([sys.executable, "-c", REGRESSION], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    x = torch.arange(12, dtype=torch.float64).reshape(4, 3) / 12
    for line, reduce in zip(done.stdout.splitlines(), (torch.mean, torch.sum), strict=True):

        def loss_fn(params, buffers, batch, reduce=reduce):
            return reduce((batch @ params["w"] - batch[:, 0]).square()), buffers

        tuner = atf.rtho(loss_fn, atf.sgd(momentum=0.9), hyper_update=atf.additive(1e-4))
        state = tuner.init({"w": torch.ones(3, dtype=torch.float64)}, {"lr": 0.01})
        for _ in range(2):
            state, _ = tuner.step(state, x, x)
        _, info = tuner.step(state, x, x)
        expected = [float(info.loss), float(info.hypergrads["lr"])]
        assert [float(number) for number in line.split()] == pytest.approx(expected, rel=1e-12)


def test_a_computed_bias_is_added_apart():
    """For inductor before torch 2.13, which cannot lower a column of Z as a bias."""
    problem = conv_batchnorm()
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd"], atf.exact)
    state = tuner.init(problem.params, ONE, problem.buffers)
    state, _ = tuner.step(state, *problem.batches[0])
    its_arguments = (state, *problem.batches[1])
    module = atf.jit(tuner.step).graph(*its_arguments)

    def computed():
        convolutions = [n for n in module.graph.nodes if "convolution.default" in str(n.target)]
        return [n for n in convolutions if n.args[2] is not None and n.args[2].op != "placeholder"]

    leaves = tree_leaves(its_arguments)
    want = module(*leaves)
    assert computed()
    _bias_apart(module)
    assert not computed()
    assert_equal(list(module(*leaves)), list(want), 1e-12)


@pytest.mark.compiles
def test_what_is_not_finite_is_seen_through_inductor():
    """Which takes 0 · x for 0."""
    are = atf.jit(lambda x: (all_finite(x), all_finite(x.exp()), *columns.finite([x[None]], [0])))
    for number in (0.0, 1e38, 89.0, torch.inf, -torch.inf, torch.nan):
        x = torch.ones(33).index_fill(0, torch.tensor([32]), number)
        assert [bool(b) for b in are(x)] == [bool(y.isfinite().all()) for y in (x, x.exp(), x)]


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_only_the_product_takes_another_kernel_of_attention():
    loss_fn, params, _ = atf.functionalize(SelfAttention(), F.cross_entropy)
    tuner = atf.marthe(loss_fn, atf.sgd())
    batch = (torch.randn(4, 5, 8), torch.tensor([0, 1, 2, 0]))
    state = tuner.init(params, ONE)
    step = atf.jit(tuner.step, backend="eager")
    assert_equal(step(state, batch, batch), tuner.step(state, batch, batch), 1e-6)
    names = [str(node.target) for node in step.graph(state, batch, batch).graph.nodes]
    assert sum("flash_attention" in name for name in names) == 2  # outer pass, forward and back
    assert any("_softmax" in name and "log" not in name for name in names)


def test_the_graph_multiplies_nothing_by_structural_zeros():
    problem = relu_mlp()
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd"], atf.exact)
    state = start(problem, tuner, ONE)
    graph = atf.jit(tuner.step, backend="eager").graph(state, *problem.batches[0]).graph
    names = [str(node.target) for node in graph.nodes]
    # Two layers: a gradient takes 2 + 3. Of a tangent's twice 5 the data's two are left out.
    assert names.count("aten.mm.default") + names.count("aten.addmm.default") == 5 + (10 - 2) + 5


def test_one_function_is_one_graph_to_the_letter():
    """Else a second process does not find what the first has compiled."""
    problem = relu_mlp()
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd"], atf.exact)
    state = start(problem, tuner, ONE)
    step = atf.jit(tuner.step, backend="eager")
    texts = {step.graph(state, *problem.batches[0]).code for _ in range(4)}
    assert len(texts) == 1


@pytest.mark.compiles
@pytest.mark.skipif(torch_version() < (2, 6), reason="inductor keeps no graphs by itself")
def test_what_was_compiled_once_is_found_again():
    x = torch.randn(7, 7)
    with fresh_cache():
        for found in (0, 1):
            counters.clear()
            torch.testing.assert_close(atf.jit(lambda x: x @ x)(x), x @ x)  # and no C++ to compile
            hits = counters["inductor"]["fxgraph_cache_hit"]
            assert min(hits + counters["aot_autograd"]["autograd_cache_hit"], 1) == found


def test_a_compiler_that_knows_less_than_the_processor(monkeypatch):
    asked, files, believed = [], [], []
    units = compat._vector_units()
    asks = lambda *_: bool(files.append(0))  # noqa: E731
    monkeypatch.setattr(units.VecISA, "check_build", asks, raising=False)
    compat.forget_vector_units()

    def inductor(module, inputs, config_patches):
        asked.append(config_patches)
        with inductor_config.patch(config_patches):
            list(units.valid_vec_isa_list())
        if config_patches.get("cpp.vec_isa_ok"):
            believed.append(not files)
            raise RuntimeError("g++: error: unrecognized command-line option '-mavx512bf16'")
        return module

    monkeypatch.setattr("adatune_func.graphs.compiling.lookup_backend", lambda name: inductor)
    x = torch.ones(2)
    # patch, not monkeypatch: what that undoes, the configuration hides from then on
    with inductor_config.patch({"cpp.vec_isa_ok": None}):
        assert torch.equal(atf.jit(torch.sin, options={"max_fusion_size": 8})(x), x.sin())
    assert [list(patches) for patches in asked] == [
        ["layout_optimization", "max_fusion_size", "cpp.vec_isa_ok"],
        ["layout_optimization", "max_fusion_size"],
    ]
    assert believed == [True]
    assert files or torch_version() < (2, 6) or not torch.cpu._is_avx2_supported()
    compat.forget_vector_units()


def test_convolutions_keep_their_layout_unless_asked_on_a_cpu(monkeypatch):
    asked = []

    def inductor(module, inputs, config_patches):
        asked.append(config_patches.get("layout_optimization"))
        return module

    monkeypatch.setattr("adatune_func.graphs.compiling.lookup_backend", lambda name: inductor)
    for options in (None, {"layout_optimization": True}):
        atf.jit(torch.sin, options=options)(torch.ones(2))
    on_another = [torch.empty(2, device="meta")]
    graph = torch.fx.symbolic_trace(nn.Identity())
    compiler("inductor", None)(graph, on_another)
    assert asked == [False, True, None]


def test_what_is_written_to_is_not_shared():
    def fn(x):
        one, two, three = x.clone(), x.clone(), x.clone()
        one.add_(1)
        two.mul_(3)
        view = two[1:]
        view.zero_()
        mean, variance = x[:1].clone(), x[:1].clone()
        normed = F.batch_norm(x[:, None], mean, variance, training=True)
        return one, two, three, torch.zeros(3).add_(x), mean, variance, normed

    x = torch.tensor([1.0, 2.0, 3.0])
    assert_equal(atf.jit(fn, backend="eager")(x), fn(x), 0)


def test_random_numbers_are_not_shared():
    one, two = atf.jit(lambda: (torch.rand(9), torch.rand(9)), backend="eager")()
    assert not torch.equal(one, two)


def test_duplicates_are_computed_once():
    def fn(x):
        return (x.sin() + 1) * (x.sin() + 1) + (x.sin() + 1.0) + torch.cat([x, x]).sum()

    jitted, x = atf.jit(fn, backend="eager"), torch.ones(2)
    names = [str(node.target) for node in jitted.graph(x).graph.nodes]
    assert names.count("aten.sin.default") == 1
    assert_equal(jitted(x), fn(x), 0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_donated_memory_is_used_again(backend):
    problem = conv_batchnorm()
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["adam"], atf.exact)
    step = atf.jit(tuner.step, donate=True, backend=backend)
    state = start(problem, tuner, ONE)
    places = [leaf.data_ptr() for leaf in tree_leaves(state)]
    new, info = step(state, *problem.batches[0])
    assert [leaf.data_ptr() for leaf in tree_leaves(new)] == places
    assert not {leaf.data_ptr() for leaf in tree_leaves(info)} & set(places)
    assert all(leaf.numel() == 0 for leaf in tree_leaves(state))
    with pytest.raises(ValueError, match=r"used up by an earlier call.*the one that this call"):
        step(state, *problem.batches[0])
    step(new, *problem.batches[1])


def test_donated_leaves_may_share_memory():
    """Results that show old values are copied before these are written over."""
    swap = atf.jit(lambda s: ((s[1], s[0] + 0), s[0][:1]), donate=True, backend="aot_eager")
    shared = torch.tensor([1.0, 2.0])
    (one, two), seen = swap((shared, shared))
    assert one.tolist() == two.tolist() == [1, 2] and one.data_ptr() != two.data_ptr()
    (one, two), seen = swap((torch.zeros(2), torch.ones(2)))
    assert (one.tolist(), two.tolist(), seen.tolist()) == ([1, 1], [0, 0], [0])


def test_arguments_that_are_one_tensor_stay_two_arguments():
    fn = atf.jit(lambda x, y: (x - y, x.t()), backend="aot_eager")
    one, two = torch.zeros(2, 3), torch.ones(2, 3)
    assert_equal(fn(one, one), (torch.zeros(2, 3), one.t()), 0)
    assert_equal(fn(two, one), (torch.ones(2, 3), two.t()), 0)


def test_what_cannot_be_donated_says_so():
    x = torch.ones(3)
    with pytest.raises(ValueError, match="a new value of its first argument"):
        atf.jit(lambda x: {"y": x}, donate=True, backend="eager")(x)
    with pytest.raises(ValueError, match="no result lies in memory"):
        atf.jit(lambda x: x.double(), donate=True, backend="eager")(x)
