"""Each module is trained as torch trains it, or one sentence says what to do."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import adatune_func as atf


def pairs(count=4, seed=0):
    torch.manual_seed(seed)
    return [(torch.randn(6, 5).double() + 1, torch.randint(3, (6,))) for _ in range(count)]


def trained(functional, batches, lr=0.1):
    tuner = atf.plain(functional.loss_fn, atf.sgd(lr=lr, momentum=0.9))
    state = tuner.init(functional.params, {}, functional.buffers)
    for batch in batches:
        state, info = tuner.step(state, batch)
        assert info.accepted
    return state


def by_torch(module, batches, criterion=F.cross_entropy, lr=0.1, more=()):
    """The reference: torch's own loop on the module itself."""
    params = [p for p in (*module.parameters(), *more) if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=lr, momentum=0.9)
    for x, y in batches:
        optimizer.zero_grad()
        criterion(module(x), y).backward()
        optimizer.step()
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def assert_close(state, want):
    values = {**state.params, **state.buffers}
    assert set(values) == set(want)
    for name, value in values.items():
        torch.testing.assert_close(value, want[name].detach(), rtol=1e-12, atol=1e-13, msg=name)


def net(first):
    return nn.Sequential(first, nn.Tanh(), nn.Linear(8, 3)).double()


class Center(nn.Module):
    """A buffer that forward binds to another tensor, a counter too, and one that it adds to."""

    seen: torch.Tensor

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 8)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        h = self.layer(x)
        self.mean = 0.5 * self.mean + 0.5 * h.mean(0).detach()
        self.count = self.count + 1
        self.seen.add_(len(x))
        return h - self.mean


class Twice(nn.Module):
    """One layer and one rebinding part under two names each."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 5)
        self.b = self.a
        self.center = Center()
        self.again = self.center
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.center(self.b(self.a(x))) + self.again(x))


class Kept(nn.Module):
    """Activations kept as attributes, by forward and by a method that is a hook."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.aux = torch.zeros(())
        self.layer.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.hidden = output

    def forward(self, x):
        self.layer(x)
        self.aux = self.hidden.square().mean()
        return self.head(torch.tanh(self.hidden)) * (1 + self.aux)


class Positions(nn.Module):
    """A cache that forward fills once and a number that says how far."""

    def __init__(self):
        super().__init__()
        self.layer, self.head, self.known = nn.Linear(5, 8), nn.Linear(8, 3), 0

    def forward(self, x):
        if self.known < len(x):
            self.known = len(x)
            self.angles = torch.arange(len(x))[:, None] * 0.1
        return self.head(torch.tanh(self.layer(x)) + self.angles[: len(x)])


def pruned():
    module = net(nn.Linear(5, 8))
    prune.l1_unstructured(module[0], "weight", 0.5)
    return module


def used(module):
    module(pairs(1, seed=9)[0][0]).sum().backward()
    return module


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return net(nn.utils.weight_norm(nn.Linear(5, 8)))


MODULES = {
    "buffers bound anew": lambda: net(Center()),
    "under two names": lambda: Twice().double(),
    "activations kept": lambda: Kept().double(),
    "activations kept, used before": lambda: used(Kept().double()),
    "a cache": lambda: Positions().double(),
    "pruned": pruned,
    "pruned, used before": lambda: used(pruned()),
    "old weight_norm": old_weight_norm,
    "weight_norm, used before": lambda: used(
        net(nn.utils.parametrizations.weight_norm(nn.Linear(5, 8)))
    ),
    "expanded": lambda: net(nn.LazyLinear(8)),
}


@pytest.mark.parametrize("name", MODULES)
def test_trains_as_torch_trains_it(name):
    torch.manual_seed(1)
    module = MODULES[name]()
    if name == "expanded":
        module(pairs(1)[0][0])  # a lazy module knows its shapes after its first batch
    functional = atf.functionalize(module, F.cross_entropy)
    state = trained(functional, pairs())
    want = by_torch(module, pairs())  # the module was left as it was: torch starts there
    assert_close(state, want)
    loss_fn, params, buffers = functional
    assert loss_fn(params, buffers, pairs(1)[0])[0] == loss_fn(params, buffers, pairs(1)[0])[0]
    moved = trained(functional, pairs(2, seed=3))
    atf.write_back(module, moved)
    assert_close(moved, {**dict(module.named_parameters()), **dict(module.named_buffers())})


@pytest.mark.compiles
@pytest.mark.parametrize("name", ["buffers bound anew", "activations kept"])
def test_compiled_equals_eager(name):
    """What forward leaves on its module would be a tensor of a trace that has ended."""
    loss_fn, params, buffers = atf.functionalize(MODULES[name](), F.cross_entropy)
    tuner = atf.plain(loss_fn, atf.sgd())
    step = atf.jit(tuner.step, backend="aot_eager")
    state, batch = tuner.init(params, {}, buffers), pairs(1)[0]
    want = tuner.step(state, batch)
    torch.testing.assert_close(step(state, batch), want, rtol=1e-12, atol=1e-14)


def test_a_compiled_module_goes_as_eager_code():
    module = net(nn.Linear(5, 8))
    wrapped: Any = torch.compile(copy.deepcopy(module), backend="eager")
    part: Any = torch.compile(copy.deepcopy(module), backend="eager")
    for compiled in (wrapped, nn.Sequential(part)):
        loss_fn, params, buffers = atf.functionalize(compiled, F.cross_entropy)
        assert not any("_orig_mod" in name for name in params)
        batch = pairs(1)[0]
        with torch.compiler.set_stance("fail_on_recompile"):  # nothing compiles of itself
            loss, _ = loss_fn(params, buffers, batch)
        torch.testing.assert_close(loss, F.cross_entropy(module(batch[0]), batch[1]).detach())
        params = {name: p + 1 for name, p in params.items()}
        atf.write_back(compiled, atf.Functional(loss_fn, params, buffers))
        assert torch.equal(next(compiled.parameters()), next(iter(params.values())))


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.steps = nn.Linear(5, 3), 0

    def forward(self, x):
        self.steps += 1
        return self.layer(x) / self.steps


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.state = nn.RNN(5, 3, batch_first=True), None

    def forward(self, x):
        y, self.state = self.layer(x[:, None], self.state)
        return y[:, -1]


@pytest.mark.parametrize(("module", "name"), [(Counter, "0.steps"), (Hidden, "0.state")])
def test_state_that_is_no_buffer_is_refused_by_name(module, name):
    loss_fn, params, buffers = atf.functionalize(nn.Sequential(module()).double(), F.cross_entropy)
    tuner = atf.marthe(loss_fn, atf.sgd(), hvp=atf.no_curvature)
    for hparams in ({"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}):
        state = tuner.init(params, hparams, buffers)
        with pytest.raises(ValueError, match=rf"forward leaves {name} another.*register_buffer"):
            tuner.step(state, pairs(1)[0], pairs(1)[0])


class Bag(nn.Module):
    def __init__(self, max_norm: float | None):
        super().__init__()
        self.table, self.bound = nn.Embedding(9, 8, max_norm=max_norm), 0.5
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        e = self.table(tokens)
        e = e * (self.bound / e.norm(dim=-1, keepdim=True)).clamp(max=1)
        return self.head(e.mean(1))


def test_max_norm_is_refused_and_what_the_error_says_works():
    with pytest.raises(ValueError, match=r"table is an Embedding with max_norm, .*clamp"):
        atf.functionalize(Bag(0.5), F.cross_entropy)
    loss_fn, params, buffers = atf.functionalize(Bag(None).double(), F.cross_entropy)
    batch = torch.arange(9)[:, None], torch.arange(9) % 3
    report = atf.check_tangents(loss_fn, atf.sgd(), params, {"lr": 0.1}, [(batch, batch)] * 3)
    assert report["lr"].relative_error < 1e-6
    before = {n: p.clone() for n, p in params.items()}
    loss_fn(params, buffers, batch)
    assert all(torch.equal(before[n], params[n]) for n in params)


class WatchedByClosure(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.kept = nn.Linear(5, 3), {}
        self.layer.register_forward_hook(lambda m, i, o: self.kept.update(h=o))

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    ("module", "kind", "words"),
    [
        (lambda: nn.LazyLinear(3), ValueError, "weight, bias has no shape yet: call the lazy"),
        (lambda: nn.DataParallel(nn.Linear(5, 3)), TypeError, "DataParallel.*give what it wraps"),
        (lambda: nn.Sequential(torch.jit.script(nn.Linear(5, 3))), TypeError, "0 is a ScriptModul"),
        (WatchedByClosure, ValueError, "hook of layer holds the module.*make the hook a method"),
        (lambda: F.linear, TypeError, "module must be an nn.Module, got builtin"),
    ],
)
def test_what_cannot_be_copied_says_what_to_do(module, kind, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given: Any = module()
    with pytest.raises(kind, match=words):
        atf.functionalize(given, F.cross_entropy)


def test_each_submodule_keeps_its_mode():
    module = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.BatchNorm1d(8))
    module[1].eval()
    loss_fn, params, buffers = atf.functionalize(module, lambda output, y: output.square().mean())
    x, y = pairs(1)[0]
    _, moved = loss_fn(params, buffers, (x.float(), y))
    for name, stays in (("1.running_mean", True), ("3.running_mean", False)):
        assert torch.equal(moved[name], buffers[name]) == stays
    both = atf.functionalize(module, lambda output, y: output.square().mean(), train=True)
    _, moved = both.loss_fn(params, buffers, (x.float(), y))
    assert not torch.equal(moved["1.running_mean"], buffers["1.running_mean"])


def test_a_module_in_eval_mode_is_trained_so_and_said_so():
    module = nn.Sequential(nn.Linear(5, 3), nn.Dropout()).eval()
    with pytest.warns(UserWarning, match=r"in eval mode .*train=False"):
        loss_fn, params, _ = atf.functionalize(module, F.cross_entropy)
    x, y = pairs(1)[0]
    want = F.cross_entropy(module(x.float()), y).detach()
    torch.testing.assert_close(loss_fn(params, {}, (x.float(), y))[0], want)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atf.functionalize(module, F.cross_entropy, train=False)
        atf.functionalize(module.train(), F.cross_entropy)
