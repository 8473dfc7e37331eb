"""Each of the seven families of networks, small: exact hypergradients, a few steps, one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.networks import (
    MLP,
    VGG,
    DenseNet,
    LeNet,
    ResNet,
    VisionTransformer,
    WideResNet,
)
from tests import reference
from tests.cases import Problem, start
from tests.test_recursion import assert_close, hypergradient

#: family -> (build(num_classes, in_channels), image size)
FAMILIES: dict[str, tuple[Callable[[int, int], nn.Module], int]] = {
    "mlp": (lambda c, i: MLP((6, 5), num_classes=c, in_channels=i, image_size=8), 8),
    "lenet": (
        lambda c, i: LeNet((2, 3), (6, 5), num_classes=c, in_channels=i, image_size=16),
        16,
    ),
    "vgg": (lambda c, i: VGG((1, 1, 1, 1, 1), width=2, num_classes=c, in_channels=i), 8),
    "resnet": (lambda c, i: ResNet((1, 1), base_width=2, num_classes=c, in_channels=i), 6),
    "wide_resnet": (
        lambda c, i: WideResNet(10, 1, base_width=2, num_classes=c, in_channels=i),
        8,
    ),
    "densenet": (lambda c, i: DenseNet(10, 2, num_classes=c, in_channels=i), 8),
    "vision_transformer": (
        lambda c, i: VisionTransformer(
            4, 1, 2, patch=4, num_classes=c, in_channels=i, image_size=8
        ),
        8,
    ),
}

OPTIMIZERS = {
    "sgd_momentum": (atf.sgd(lr=0.02, momentum=0.9, weight_decay=5e-4), {"lr": 0.02}),
    "adam": (atf.adam(lr=1e-3, eps=1e-4, weight_decay=5e-4), {"lr": 1e-3}),
}


def problem_of(family: str, steps: int, dtype: torch.dtype) -> Problem:
    build, size = FAMILIES[family]
    torch.manual_seed(5)
    module = build(5, 2).to(dtype).train()
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(12, 2, size, size, dtype=dtype), torch.randint(0, 5, (12,))

    return Problem(loss_fn, params, buffers, [(draw(), draw()) for _ in range(steps)])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_hypergradient_is_the_derivative_of_the_run(family, optimizer):
    """In float64, BatchNorm in train mode; differences a hair apart, so that no ReLU is between."""
    run = problem_of(family, steps=4, dtype=torch.float64)
    optimizer, hparams = OPTIMIZERS[optimizer]
    got = hypergradient(run, optimizer, hparams)
    assert got["lr"] != 0
    difference = {"lr": reference.central_difference(run, optimizer, hparams, "lr")}
    assert_close(got, difference, 1e-5)
    assert_close(got, reference.reverse_mode(run, optimizer, hparams), 1e-9)


def trained(family: str, optimizer: str, dtype: torch.dtype, backend: str | None = None) -> Any:
    problem = problem_of(family, steps=3, dtype=dtype)
    chosen, hparams = OPTIMIZERS[optimizer]
    tuner = atf.marthe(problem.loss_fn, chosen)
    step: Any = tuner.step
    if backend:
        step = atf.jit(step, backend=backend)
    state, infos = start(problem, tuner, hparams), []
    for batch, val_batch in problem.batches:
        state, info = step(state, batch, val_batch)
        infos.append(info)
    return problem, state, infos


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_steps_of_marthe(family, optimizer):
    problem, state, infos = trained(family, optimizer, torch.float32)
    assert all(info.accepted for info in infos)
    assert state.hparams["lr"] != OPTIMIZERS[optimizer][1]["lr"]
    assert all(z.isfinite().all() and z.any() for z in state.z.params.values())
    for name, w in problem.params.items():
        assert not torch.equal(state.params[name], w), name
    for name, buffer in problem.buffers.items():
        if name.endswith("num_batches_tracked"):  # validation batches do not count
            assert state.buffers[name] == buffer + len(infos)


def compiled_equals_eager(family: str, optimizer: str, backend: str) -> None:
    _, eager, _ = trained(family, optimizer, torch.float64)
    _, compiled, _ = trained(family, optimizer, torch.float64, backend)
    torch.testing.assert_close(eager.params, compiled.params, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(eager.z.params, compiled.z.params, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(eager.hparams, compiled.hparams, rtol=1e-8, atol=0.0)


@pytest.mark.compiles
@pytest.mark.parametrize(("family", "optimizer"), [("vgg", "sgd_momentum"), ("lenet", "adam")])
def test_one_graph_that_equals_eager(family, optimizer):
    compiled_equals_eager(family, optimizer, "eager")


@pytest.mark.acceptance
@pytest.mark.compiles
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_compiled_equals_eager(family, optimizer):
    compiled_equals_eager(family, optimizer, "inductor")
