"""What the loss is made of is trained, or the first step says what to do; and that works."""

from __future__ import annotations

import functools
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import adatune_func as atf
from tests.test_functional_copies import assert_close, by_torch, pairs, trained


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(5, 3).double()


def step(loss_fn, params, buffers=None, batch=None, **kwargs):
    tuner = atf.marthe(loss_fn, atf.sgd(), **kwargs)
    batch = pairs(1)[0] if batch is None else batch
    return tuner.step(tuner.init(params, {"lr": 0.1}, buffers), batch, batch)


def penalised_by(module):
    return lambda output, y: F.cross_entropy(output, y) + module.weight.abs().sum()


def helper(module, output, y):
    return F.cross_entropy(output, y) + sum(p.abs().sum() for p in module.parameters())


class Penalty(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, output, y):
        return F.cross_entropy(output, y) + self.module.weight.abs().sum()


class WithOwnLoss(nn.Linear):
    def loss(self, output, y):
        return F.cross_entropy(output, y) + self.weight.abs().sum()


@pytest.mark.parametrize(
    "criterion",
    [penalised_by, lambda m: functools.partial(helper, m), Penalty, lambda m: m.loss],
    ids=["closure", "partial", "module", "method"],
)
def test_a_criterion_that_holds_the_module_is_refused(criterion):
    module = WithOwnLoss(5, 3)
    with pytest.raises(ValueError, match=r"the criterion holds the module .*that_module, None"):
        atf.functionalize(module, criterion(module))


def test_a_criterion_that_finds_the_module_by_other_ways_is_refused_at_the_first_call():
    module = linear()
    registry = SimpleNamespace(found=[module])
    loss_fn, params, buffers = atf.functionalize(
        module, lambda output, y: F.cross_entropy(output, y) + registry.found[0].weight.abs().sum()
    )
    with pytest.raises(ValueError, match=r"the loss reads parameters of the module that was given"):
        step(loss_fn, params, buffers)


class Penalised(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.model = module

    def forward(self, x, y):
        return F.cross_entropy(self.model(x), y) + 0.1 * self.model.weight.abs().sum()


def test_the_remedy_trains_the_penalty_as_torch_does():
    module = Penalised(linear())
    state = trained(atf.functionalize(module, None), pairs())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for x, y in pairs():
        optimizer.zero_grad()
        module(x, y).backward()
        optimizer.step()
    assert_close(state, dict(module.named_parameters()))


def test_a_part_without_parameters_is_a_fine_criterion():
    module = linear()
    module.criterion = nn.CrossEntropyLoss()
    loss_fn, params, _ = atf.functionalize(module, module.criterion)
    x, y = pairs(1)[0]
    torch.testing.assert_close(
        loss_fn(params, {}, (x, y))[0], F.cross_entropy(module(x), y).detach()
    )


class Temperature(nn.Module):
    center: torch.Tensor

    def __init__(self, buffers=False):
        super().__init__()
        self.log_t = nn.Parameter(torch.tensor(0.3).double())
        if buffers:
            self.register_buffer("center", torch.zeros(3).double())

    def forward(self, output, y):
        if hasattr(self, "center"):
            self.center.mul_(0.9).add_(0.1 * output.mean(0).detach())
            output = output - self.center
        return F.cross_entropy(output * self.log_t.exp(), y)


@pytest.mark.parametrize("buffers", [False, True])
def test_a_criterions_own_tensors_are_trained_and_written_back(buffers):
    module, criterion = linear(), Temperature(buffers)
    functional = atf.functionalize(module, criterion)
    state = trained(functional, pairs())
    want = dict(by_torch(module, pairs(), criterion, more=criterion.parameters()))
    own = {**dict(criterion.named_parameters()), **dict(criterion.named_buffers())}
    assert_close(state, want | {f"criterion.{name}": t for name, t in own.items()})
    again = trained(functional, pairs(2, seed=5))
    with pytest.raises(ValueError, match=r"criterion.log_t.*write_back\(module, state, criterion"):
        atf.write_back(module, again)
    atf.write_back(module, again, criterion)
    assert torch.equal(criterion.log_t, again.params["criterion.log_t"])


def test_a_criterions_parameters_have_tangents():
    loss_fn, params, _ = atf.functionalize(linear(), Temperature())
    report = atf.check_tangents(loss_fn, atf.sgd(), params, {"lr": 0.1}, [(b, b) for b in pairs(3)])
    assert report["lr"].relative_error < 1e-6


def test_gauss_newton_sees_a_criterions_parameters():
    """Of an affine model the Gauss-Newton matrix is the Hessian, the criterion's part with it."""
    loss_fn, params, buffers = atf.functionalize(linear(), Temperature())
    batch = pairs(1)[0]
    from adatune_func.curvature import Gradient

    torch.manual_seed(1)
    v = {n: torch.randn(1, *p.shape).double() for n, p in params.items()}
    with torch.no_grad():
        got = atf.gauss_newton(Gradient(loss_fn, buffers), params, batch, v)
        want = atf.exact(Gradient(loss_fn, buffers), params, batch, v)
    torch.testing.assert_close(got[:2], want[:2], rtol=1e-10, atol=1e-12)
    whole = atf.functionalize(linear(), Temperature(buffers=True))
    with pytest.raises(TypeError, match=r"with one that has buffers.*take another hvp"):
        step(*whole, hvp=atf.gauss_newton)


def test_class_weights_are_constants():
    module, criterion = linear(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3]).double())
    state = trained(atf.functionalize(module, criterion), pairs())
    assert_close(state, by_torch(module, pairs(), criterion))


# -- batches and outputs


@dataclass
class Output:
    logits: Any = None
    loss: Any = None


class ModelOutput(OrderedDict):
    def __getattr__(self, name):
        return self[name]


class HF(nn.Module):
    """In the manner of transformers: keywords in, an object out."""

    def __init__(self, out):
        super().__init__()
        self.embed, self.head, self.out = nn.Embedding(9, 6), nn.Linear(6, 3), out

    def forward(self, input_ids, attention_mask=None, labels=None):
        h = torch.tanh(self.embed(input_ids))
        h = h if attention_mask is None else h * attention_mask[..., None]
        logits = self.head(h.mean(1))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return self.out(logits=logits, loss=loss)


def tokens(kind: Any = dict, seed=0):
    torch.manual_seed(seed)
    return kind(
        input_ids=torch.randint(9, (4, 5)),
        attention_mask=torch.randint(2, (4, 5)),
        labels=torch.randint(3, (4,)),
    )


def own_loss_fn(model):
    """Written by hand: what each of the readings has to equal."""

    def loss_fn(params, buffers, batch):
        h = torch.tanh(F.embedding(batch["input_ids"], params["embed.weight"]))
        h = (h * batch["attention_mask"][..., None]).mean(1)
        output = F.linear(h, params["head.weight"], params["head.bias"])
        return F.cross_entropy(output, batch["labels"]), buffers

    return loss_fn


OUTPUTS = {
    "dataclass": Output,
    "ModelOutput": ModelOutput,
    "dict": dict,
    "namespace": SimpleNamespace,
    "tuple": lambda logits, loss: (loss, logits),
}


@pytest.mark.parametrize("kind", [dict, UserDict])
@pytest.mark.parametrize("out", OUTPUTS)
def test_a_dict_of_keywords_and_the_models_own_loss(out, kind):
    torch.manual_seed(0)
    model = HF(OUTPUTS[out]).double()
    loss_fn, params, _ = atf.functionalize(model, None)
    batch = tokens(kind)
    want = step(own_loss_fn(model), params, batch=dict(batch))
    torch.testing.assert_close(step(loss_fn, params, batch=batch), want, rtol=1e-12, atol=1e-14)
    by_keywords = atf.functionalize(
        HF(lambda logits, loss: logits).double(), lambda output, b: F.cross_entropy(output, b["y"])
    )
    renamed = {"y" if k == "labels" else k: v for k, v in batch.items()}
    torch.testing.assert_close(
        step(by_keywords.loss_fn, params, batch=renamed), want, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("kind", [lambda x: x, lambda x: (x,), lambda x: [x]])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_one_input_is_its_own_target(kind, rows):
    module = nn.Linear(5, 5).double()
    loss_fn, params, buffers = atf.functionalize(module, lambda output, x: (output - x).abs().sum())
    x = torch.randn(rows, 5).double()
    loss, _ = loss_fn(params, buffers, kind(x))
    torch.testing.assert_close(loss, (module(x) - x).abs().sum().detach())


@dataclass
class Both:
    x: torch.Tensor
    y: torch.Tensor


def test_any_other_batch_goes_whole_and_its_nan_is_the_datas_fault():
    class OfBoth(nn.Linear):
        def forward(self, input: Any):
            return super().forward(input.x)

    module = OfBoth(5, 3).double()
    loss_fn, params, buffers = atf.functionalize(
        module, lambda output, batch: F.cross_entropy(output, batch.y)
    )
    x, y = pairs(1)[0]
    torch.testing.assert_close(
        loss_fn(params, buffers, Both(x, y))[0], F.cross_entropy(module(Both(x, y)), y).detach()
    )
    own = own_loss_fn(None)
    hf, bad = atf.functionalize(HF(Output), None), tokens(UserDict)
    bad["attention_mask"] = bad["attention_mask"] * torch.nan
    for fn, start, good, broken in (
        (loss_fn, params, Both(x, y), Both(x * torch.nan, y)),
        (own, hf.params, tokens(UserDict), bad),
    ):
        tuner = atf.marthe(fn, atf.sgd())
        state, info = tuner.step(tuner.init(start, {"lr": 0.1}, {}), good, broken)
        assert not info.accepted and state.hparams["lr"] == 0.1


def test_a_packed_sequence_is_one_input():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.RNN(5, 4), nn.Linear(4, 3)

        def forward(self, packed):
            return self.head(self.rnn(packed)[1][0])

    module = Last().double()
    packed = nn.utils.rnn.pack_sequence([torch.randn(n, 5).double() for n in (4, 2, 1)])
    y = torch.tensor([0, 1, 2])
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    loss, _ = loss_fn(params, buffers, (packed, y))
    torch.testing.assert_close(loss, F.cross_entropy(module(packed), y).detach())
    whole = atf.functionalize(module, lambda output, batch: F.cross_entropy(output, y))
    torch.testing.assert_close(whole.loss_fn(params, buffers, packed)[0], loss)


@pytest.mark.parametrize(
    ("criterion", "batch", "words"),
    [
        (F.cross_entropy, (tokens(), tokens()["labels"]), r"read as module\(dict\), which failed"),
        (F.cross_entropy, tokens(), r'the criterion is given all: .*batch\["labels"\]'),
        (F.cross_entropy, (tokens()["input_ids"], tokens()["labels"]),
         r"returns a Output: take the tensor out of it, .*output.logits"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_how_it_was_read(criterion, batch, words):
    loss_fn, params, buffers = atf.functionalize(HF(Output), criterion)
    with pytest.raises(TypeError, match=words):
        loss_fn(params, buffers, batch)


def test_no_loss_and_no_tensors():
    loss_fn, params, buffers = atf.functionalize(HF(Output), None)
    with pytest.raises(ValueError, match="found None; does the batch hold the labels"):
        loss_fn(params, buffers, {"input_ids": tokens()["input_ids"]})
    with pytest.raises(ValueError, match="the batch is empty"):
        loss_fn(params, buffers, ())
    fine = atf.functionalize(HF(Output), lambda o, y: F.cross_entropy(o.logits, y))
    batch = tokens()["input_ids"], tokens()["labels"]
    with pytest.raises(TypeError, match=r"gauss_newton cannot look into .* Output: .*hvp=exact"):
        step(*fine, batch=batch, hvp=atf.gauss_newton)
    assert step(*fine, batch=batch, hvp=atf.exact)[1].accepted


# -- a loss_fn of one's own


def own_batchnorm(clone):
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()

    def loss_fn(params, buffers, batch):
        if clone:
            buffers = {n: b.clone() for n, b in buffers.items()}
        output = functional_call(module, {**params, **buffers}, (batch[0],))
        return F.cross_entropy(output, batch[1]), buffers

    return module, loss_fn


def test_buffers_that_are_not_cloned_are_refused_and_clones_are_right():
    module, loss_fn = own_batchnorm(clone=False)
    of_module = atf.functionalize(module, F.cross_entropy)
    with pytest.raises(ValueError, match=r"clone the buffers, \{n: b.clone\(\) for n, b in"):
        step(loss_fn, of_module.params, of_module.buffers)
    cloned = of_module._replace(loss_fn=own_batchnorm(clone=True)[1])
    torch.testing.assert_close(step(*cloned), step(*of_module), rtol=1e-12, atol=1e-14)


MODULE = linear()
PARAMS = {name: p.detach() for name, p in MODULE.named_parameters()}


def loss_of(params, batch):
    return F.cross_entropy(functional_call(MODULE, params, (batch[0],)), batch[1])


@pytest.mark.parametrize("hvp", [atf.exact, atf.no_curvature])
@pytest.mark.parametrize(
    ("loss_fn", "words"),
    [
        (lambda p, b, batch: (F.cross_entropy(MODULE(batch[0]), batch[1]), b),
         r"does not depend on params.*functional_call\(module"),
        (lambda p, b, batch: (loss_of(p, batch).detach(), b), "does not depend on params"),
        (lambda p, b, batch: (loss_of(p, batch), b, {"accuracy": 1.0}),
         r"must return \(loss, buffers\), got a tuple of 3.*beside the step"),
        (lambda p, b, batch: [loss_of(p, batch), b], r"must return \(loss, buffers\), got a list"),
        (lambda p, b, batch: (loss_of(p, batch), None), r"got \(loss, None\): return the buffers"),
        (lambda p, b, batch: (0.5, b), "loss must be a scalar tensor, got float"),
        (lambda p, b, batch: (loss_of(p, batch).long(), b), "loss must be floating point"),
        (lambda p, b, batch: (loss_of(p, batch), {**b, "accuracy": torch.ones(())}),
         "accuracy is in one of the two only.*tuner.init"),
        (lambda p, b, batch: (loss_of(p, batch), {}), "n is in one of the two only"),
        (lambda p, b, batch: (loss_of(p, batch), {"n": b["n"][None]}),
         r"n was \(\) float32 and comes back \(1,\) float32"),
        (lambda p, b, batch: (loss_of(p, batch), {"n": b["n"].double()}),
         r"n was \(\) float32 and comes back \(\) float64: keep its"),
        (lambda p, b, batch: (loss_of(p, batch), {"n": 1.0}), "n must be a tensor"),
        (lambda p, b, batch: (loss_of(p, batch), {"n": b["n"].add_(1)}), "clone the buffers"),
        (lambda p, b, batch: (loss_of({**p, "bias": p["bias"].detach().zero_()}, batch), b),
         "writes into its params in place"),
    ],
)  # fmt: skip
def test_what_a_loss_fn_may_not_do(loss_fn, words, hvp):
    with pytest.raises(ValueError, match=words):
        step(loss_fn, PARAMS, {"n": torch.zeros(())}, hvp=hvp)


def test_the_dict_of_buffers_may_be_changed():
    def loss_fn(params, buffers, batch):
        buffers["n"] = buffers["n"] + 1
        return loss_of(params, batch), buffers

    tuner = atf.marthe(loss_fn, atf.sgd())
    start = tuner.init(PARAMS, {"lr": 1e-3}, {"n": torch.zeros(())})
    state, _ = tuner.step(start, pairs(1)[0], pairs(1)[0])
    assert start.buffers["n"] == 0 and state.buffers["n"] == 1
