"""What people bring, and nobody planned for: the right number, or one clear sentence.

Numbers are held against an ordinary loop of ``torch.optim``: its weights after three steps, and the
difference of two such runs, a hair apart in lr, for the hypergradient.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import adatune_func as atf
from tests.cases import tanh_mlp

INF, NAN, F64 = float("inf"), float("nan"), torch.float64
RULE = atf.additive(0.0)


def squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def behind(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(module, nn.Linear(3, 2)).double()


def pairs(draw: Callable[[], Any]) -> list[Any]:
    torch.manual_seed(1)
    return [(draw(), draw()) for _ in range(3)]


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, dtype=F64), torch.randn(6, 2, dtype=F64)


def weights() -> dict[str, Tensor]:
    return {name: p.detach() for name, p in net().named_parameters()}


def init(
    params: Any = None, hparams: Any = None, optimizer: Any = None, buffers: Any = None
) -> Any:
    problem = tanh_mlp(1)
    tuner = atf.rtho(problem.loss_fn, optimizer or atf.sgd(), hyper_update=RULE)
    hparams = {"lr": 0.1} if hparams is None else hparams
    return tuner.init(problem.params if params is None else params, hparams, buffers)


def plain(optimizer: Any, hparams: Any = None) -> Any:
    return atf.plain(tanh_mlp(1).loss_fn, optimizer).init(tanh_mlp(1).params, hparams)


def step(batch: Any, criterion: Any = squares) -> Any:
    loss_fn, params, buffers = atf.functionalize(net(), criterion)
    tuner = atf.rtho(loss_fn, atf.sgd(), hyper_update=RULE)
    return tuner.step(tuner.init(params, {"lr": 0.1}, buffers), batch, batch)


def step_from(change: Callable[[Any, Any], Any], tuner_of: Callable[..., Any] = atf.rtho) -> Any:
    """A step from what ``change(state, batch)`` makes of a good state."""
    problem = tanh_mlp(1)
    state = atf.rtho(problem.loss_fn, atf.adam()).init(problem.params, {"lr": 0.1})
    return tuner_of(problem.loss_fn, atf.adam()).step(
        change(state, problem.batches[0]), *problem.batches[0]
    )


def saved_by_torch(folder: Any) -> Any:
    torch.save(net().state_dict(), folder / "net.pt")
    return atf.load(folder / "net.pt", like=init())


X, LABELS = torch.ones(6, 3, dtype=F64), torch.ones(6, dtype=torch.long)
ONE = torch.ones(3)

#: name -> (what is done, the words of the error)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "an infinite lr": (lambda: init(hparams={"lr": INF}), "lr = inf is not finite"),
    "a schedule for lr": (
        lambda: init(hparams={"lr": atf.schedules.cosine(0.1, 9)}),
        r"lr must be a number .* a schedule goes to plain\(schedule=...\)",
    ),
    "a complex lr": (lambda: init(hparams={"lr": 1j}), "got complex 1j"),
    "a negative lr that is not tuned": (lambda: plain(atf.sgd(lr=-0.1)), "lr = -0.1 lies outside"),
    "a negative lr in plain training": (
        lambda: plain(atf.sgd(), {"lr": -0.1}),
        r"lr = -0.1 lies outside \[0, inf\]",
    ),
    "momentum from a config of strings": (
        lambda: init(optimizer=atf.sgd(momentum="0.9")),  # type: ignore[arg-type]
        "momentum must be a number or a 0-d tensor, got str '0.9'",
    ),
    "no weight decay, said by None": (
        lambda: init(optimizer=atf.sgd(weight_decay=None)),  # type: ignore[arg-type]
        "weight_decay must be a number .*, got None",
    ),
    "a NaN that is not tuned": (
        lambda: init(optimizer=atf.sgd(weight_decay=NAN)),
        "weight_decay = nan lies outside",
    ),
    "weights that start at NaN": (
        lambda: init({**weights(), "2.bias": NAN * torch.ones(2)}),
        "params hold a number that is not finite from the start, in '2.bias'",
    ),
    "weights on the meta device": (
        lambda: init({name: p.to("meta") for name, p in weights().items()}),
        "params are on the meta device",
    ),
    "one weight on the meta device": (
        lambda: init({**weights(), "2.bias": torch.ones(2, device="meta")}),
        "params are on the meta device, which holds no numbers: load the model first",
    ),
    "module.parameters()": (
        lambda: init(net().parameters()),
        r"found generator; take dict\(module.named_parameters\(\)\)",
    ),
    "a module for params": (lambda: init(net()), "found Sequential; take dict"),
    "a state dict with counters": (
        lambda: init(nn.BatchNorm1d(3).state_dict()),
        "found torch.int64; frozen or integer tensors belong in buffers",
    ),
    "sparse weights": (lambda: init({"w": torch.eye(3).to_sparse()}), "params must be dense"),
    "weights of 8 bits": (
        lambda: init({"w": ONE.to(torch.float8_e4m3fn)}),
        "of 32 bits or more, found torch.float8_e4m3fn",
    ),
    "complex weights": (lambda: init({"w": ONE + 1j}), "found torch.complex64"),
    "one tensor under two names": (
        lambda: init({"encoder": ONE, "decoder": ONE}),
        "params hold one tensor twice, as 'decoder' and 'encoder'",
    ),
    "a Python number for a buffer": (
        lambda: init(buffers={"count": 3}),
        r"buffers must be tensors.* 'count' is int: take torch.tensor\(3\)",
    ),
    "None for a buffer": (lambda: init(buffers={"mask": None}), "'mask' is None"),
    "a list of buffers": (lambda: init(buffers=[ONE]), "buffers must be a dict .* got list"),
    "a batch of numpy": (lambda: step((X.numpy(), X.numpy())), "a numpy array .* torch.as_tensor"),
    "a generator for a batch": (lambda: step(x for x in batch()), "an iterator: give the batch"),
    "a loader for a batch": (
        lambda: step(DataLoader(TensorDataset(X))),
        "a DataLoader: give one batch",
    ),
    "a loss as a Python number": (
        lambda: step(batch(), lambda o, t: float(o.shape[0])),
        "the loss must be a scalar tensor, got float",
    ),
    "the number of errors as a loss": (
        lambda: step(batch(), lambda o, t: (o > t).sum()),
        "the loss must be floating point, got torch.int64",
    ),
    "a batch in half precision": (
        lambda: step((X.half(), X[:, :2])),
        "two precisions meet in one operation: give the batch the dtype of the parameters",
    ),
    "a batch in single precision": (
        lambda: step((X.float(), X[:, :2])),
        "must have the same dtype, but got Float and Double",
    ),
    "labels as floats": (
        lambda: step((X, LABELS.float()), F.cross_entropy),
        "expected target dtype to be Long",
    ),
    "a label beyond the classes": (
        lambda: step((X, LABELS + 6), F.cross_entropy),
        "Target 7 is out of bounds",
    ),
    "a label too few": (
        lambda: step((X, LABELS[1:]), F.cross_entropy),
        r"batch_size \(6\) to match target batch_size \(5\)",
    ),
    "the pair that step returns": (
        lambda: step_from(lambda state, _: (state, None)),
        r"got tuple; step itself returns \(state, info\)",
    ),
    "batch and state exchanged": (lambda: step_from(lambda _, batch: batch), "got tuple"),
    "a float put into the state": (
        lambda: step_from(lambda state, _: state._replace(hparams={"lr": 0.5})),
        "holds hyperparameters as 0-d tensors, found float 0.5; take torch.full_like",
    ),
    "another optimizer's state": (
        lambda: step_from(lambda *_: init()),
        "holds a SGDState, which is not of this tuner",
    ),
    "another rule's state": (
        lambda: step_from(lambda state, _: state._replace(hyper_state=init().hyper_state)),
        "holds a AdditiveState, which is not of this tuner",
    ),
    "plain training's state in a tuner": (
        lambda: step_from(lambda *_: plain(atf.adam(), {"lr": 0.1})),
        "this state has no tangent, as those of plain",
    ),
    "a tuner's state in plain training": (
        lambda: step_from(lambda state, _: state, atf.plain),
        "one of a tuner's, not of plain",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name):
    act, words = REFUSED[name]
    with pytest.raises(Exception, match=words) as error:
        act()
    assert "\n" not in str(error.value).strip()


def test_a_file_of_another_kind_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="not a checkpoint"):
        saved_by_torch(tmp_path)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class SeedsItself(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return x + 0.1 * torch.randn_like(x)


class Masked(nn.Module):
    """A causal mask as it is commonly registered."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -INF).triu(1).double())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.mask.softmax(1).mT


class Unused(nn.Linear):
    """A layer that no output depends on."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.spare = nn.Linear(3, 3)


def hooked() -> nn.Module:
    module = net()
    module[0].register_forward_hook(lambda module, inputs, output: 2 * output)  # type: ignore[index]
    return module


def with_weight(change: Callable[[Tensor], Tensor]) -> nn.Module:
    module: Any = net()
    module[0].weight = nn.Parameter(change(module[0].weight.detach()))
    return module


def in_one_buffer() -> nn.Module:
    module, begin = net(), 0
    flat = torch.cat([p.detach().flatten() for p in module.parameters()])
    for p in module.parameters():
        p.data = flat[begin : begin + p.numel()].view_as(p)
        begin += p.numel()
    return module


def missing(output: Tensor, target: Tensor) -> Tensor:
    """Squares of what is known: NaN marks the rest."""
    known = ~target.isnan()
    return torch.where(known, output - torch.where(known, target, 0.0), 0.0).square().mean()


def marked() -> tuple[Tensor, Tensor]:
    x, y = batch()
    y[0, 0] = NAN
    return x, y


def masked(output: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    """Squares weighted by an additive mask of -inf."""
    y, mask = target
    return ((output - y).square() * mask.softmax(0)).sum(1).mean()


def infer() -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return batch()


#: name -> (module, criterion, what draws a batch)
RIGHT: dict[str, tuple[Callable[[], nn.Module], Any, Callable[[], Any]]] = {
    "noise of the global generator in forward": (lambda: behind(Noise()), squares, batch),
    "manual_seed in forward": (lambda: behind(SeedsItself()), squares, batch),
    "a causal mask of -inf among the buffers": (lambda: behind(Masked()), squares, batch),
    "a layer without use": (lambda: behind(Unused()), squares, batch),
    "a layer of width 0": (
        lambda: nn.Sequential(nn.Linear(3, 0), nn.Linear(0, 2)).double(),
        squares,
        batch,
    ),
    "a forward hook that changes the output": (hooked, squares, batch),
    "transposed weights": (lambda: with_weight(lambda w: w.T.contiguous().T), squares, batch),
    "all weights as views of one buffer": (in_one_buffer, squares, batch),
    "NaN for targets that are missing": (net, missing, marked),
    "a mask of -inf in the batch": (
        net,
        masked,
        lambda: (batch()[0], (X[:, :2], torch.tensor([0.0, -INF], dtype=F64))),
    ),
    "targets as bool": (net, lambda o, t: squares(o, t.double()), lambda: (X, X[:, :2] > 0)),
    "a loss far below 0": (net, lambda o, t: squares(o, t) - 1e3, batch),
    "batches that require grad": (net, squares, lambda: (batch()[0].requires_grad_(), batch()[1])),
    "batches of inference mode": (net, squares, infer),
}


def ordinary(module: nn.Module, criterion: Any, batches: Any, lr: float) -> tuple[Any, float]:
    """Weights and outer loss of a loop as one writes it with torch.optim."""
    torch.manual_seed(7)
    module, outer = copy.deepcopy(module), torch.zeros(())
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)
    for (x, y), (x_val, y_val) in batches:
        optimizer.zero_grad()
        criterion(module(x.clone()), y).backward()
        optimizer.step()
        outer = criterion(copy.deepcopy(module)(x_val.clone()), y_val)
    return dict(module.named_parameters()), float(outer.detach())


def trained(module: nn.Module, criterion: Any, batches: Any, hparams: Any = None) -> Any:
    loss_fn, params, buffers = atf.functionalize(module, criterion)
    tuner = atf.rtho(loss_fn, atf.sgd(momentum=0.9), hyper_update=RULE)
    state = tuner.init(params, hparams or {"lr": 0.02}, buffers)
    torch.manual_seed(7)
    info = None
    for batch, val_batch in batches:
        state, info = tuner.step(state, batch, val_batch)
        assert info.accepted
    return state, info


@pytest.mark.parametrize("name", RIGHT)
def test_right_as_an_ordinary_loop_is(name):
    build, criterion, draw = RIGHT[name]
    module, batches = build(), pairs(draw)
    state, info = trained(module, criterion, batches)
    params, _ = ordinary(module, criterion, batches, 0.02)
    for key, value in state.params.items():
        torch.testing.assert_close(value, params[key].detach(), rtol=1e-10, atol=1e-12)
        assert not value.requires_grad
    ends = [ordinary(module, criterion, batches, 0.02 + e)[1] for e in (1e-6, -1e-6)]
    assert float(info.hypergrads["lr"]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize(
    "hparams",
    [
        {"lr": np.float64(0.25)},
        {"lr": np.float32(0.25)},
        {"lr": np.array(0.25)},
        {"lr": torch.tensor(0.25, requires_grad=True)},
        OrderedDict(lr=0.25, weight_decay=1e-6),
    ],
    ids=["float64 of numpy", "float32 of numpy", "an array", "a parameter", "OrderedDict"],
)
def test_a_start_that_is_a_number_after_all(hparams):
    batches = pairs(batch)
    floats = {name: 0.25 if name == "lr" else value for name, value in hparams.items()}
    right, _ = trained(net(), squares, batches, floats)
    state, _ = trained(net(), squares, batches, hparams)
    torch.testing.assert_close(state.params, right.params, rtol=0, atol=0)
    torch.testing.assert_close(state.z.params, right.z.params, rtol=0, atol=0)
    assert state.hparams["lr"] == 0.25


def test_expanded_weights_are_as_good_as_full_ones():
    batches = pairs(batch)
    full, _ = trained(with_weight(lambda w: w[:1, :1].repeat(4, 3)), squares, batches)
    expanded, _ = trained(with_weight(lambda w: w[:1, :1].expand(4, 3)), squares, batches)
    torch.testing.assert_close(expanded.params, full.params, rtol=0, atol=0)


def test_weights_of_two_precisions_are_right_to_the_lower_one():
    class Mixed(nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(3, 4).double(), nn.Linear(4, 2).to(dtype)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).to(self.last.weight.dtype)).double()

    batches = pairs(batch)
    state, info = trained(Mixed(torch.float32), squares, batches)
    right, right_info = trained(Mixed(F64), squares, batches)
    assert state.params["last.weight"].dtype == torch.float32
    assert state.z.params["first.weight"].dtype == F64
    torch.testing.assert_close(info.hypergrads, right_info.hypergrads, rtol=1e-5, atol=0)
    for name, value in right.params.items():
        torch.testing.assert_close(state.params[name].double(), value, rtol=1e-5, atol=1e-6)


def test_weights_clamped_in_place_between_steps():
    """The state is what the next step starts from, as the weights of a loop are."""
    loss_fn, params, buffers = atf.functionalize(net(), squares)
    tuner = atf.rtho(loss_fn, atf.sgd(momentum=0.9), hyper_update=RULE)
    state = tuner.init(params, {"lr": 0.02}, buffers)
    module = net()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    for (x, y), val_batch in pairs(batch):
        state, _ = tuner.step(state, (x, y), val_batch)
        optimizer.zero_grad()
        squares(module(x), y).backward()
        optimizer.step()
        for value in [*state.params.values(), *(p.data for p in module.parameters())]:
            value.clamp_(-0.3, 0.3)
    for name, p in module.named_parameters():
        torch.testing.assert_close(state.params[name], p.detach(), rtol=1e-12, atol=1e-14)


def test_an_empty_batch_is_a_null_step_that_says_so():
    empty = (X[:0], X[:0, :2])
    loss_fn, params, _ = atf.functionalize(net(), squares)
    tuner = atf.rtho(loss_fn, atf.sgd(), hyper_update=RULE)
    state = tuner.init(params, {"lr": 0.1})
    after, info = tuner.step(state, empty, (X, X[:, :2]))
    assert not info.accepted and info.loss.isnan()
    torch.testing.assert_close(after.params, state.params, rtol=0, atol=0)


def test_whatever_else_lies_in_a_batch_of_ones_own():
    """Names of files, a count, nothing at all; keys of params in any order and of any kind."""

    def loss_fn(params: Any, buffers: Any, batch: Any) -> Any:
        x, names, scale, nothing = batch["x"], batch["names"], batch["scale"], batch["mask"]
        assert names == ["a.png", "b.png"] and nothing is None
        return scale * ((x @ params[2]).tanh() @ params[1]).square().mean(), buffers

    def outer(params: Any, buffers: Any, batch: Any) -> Any:
        return (batch @ params[2] @ params[1]).square().mean(), buffers

    torch.manual_seed(0)
    params = {2: torch.randn(3, 4, dtype=F64), 1: torch.randn(4, 2, dtype=F64)}
    x, x_val = torch.randn(6, 3, dtype=F64), torch.randn(5, 3, dtype=F64)
    data = {"x": x, "names": ["a.png", "b.png"], "scale": 2, "mask": None}
    tuner = atf.rtho(loss_fn, atf.sgd(), hyper_update=RULE, val_loss_fn=outer)
    state = tuner.init(params, {"lr": 0.01})
    state, _ = tuner.step(state, data, x_val)
    _, info = tuner.step(state, data, x_val)

    def run(lr: float) -> float:
        a, b = params[2].clone().requires_grad_(), params[1].clone().requires_grad_()
        for _ in range(2):
            loss = 2 * ((x @ a).tanh() @ b).square().mean()
            steps = torch.autograd.grad(loss, (a, b))
            a, b = (
                (w - lr * g).detach().requires_grad_() for w, g in zip((a, b), steps, strict=True)
            )
        return float((x_val @ a @ b).square().mean().detach())

    assert float(info.val_loss) == pytest.approx(run(0.01), rel=1e-12)
    difference = (run(0.01 + 1e-6) - run(0.01 - 1e-6)) / 2e-6
    assert float(info.hypergrads["lr"]) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_run_inside_any_mode_of_autograd(mode):
    batches = pairs(batch)
    right, right_info = trained(net(), squares, batches)
    with mode():
        state, info = trained(net(), squares, batches)
    torch.testing.assert_close(state.params, right.params, rtol=0, atol=0)
    torch.testing.assert_close(info.hypergrads, right_info.hypergrads, rtol=0, atol=0)


def test_a_network_without_trainable_weights():
    with pytest.raises(ValueError, match="params is empty: there is nothing to train"):
        trained(net().requires_grad_(False), squares, pairs(batch))
