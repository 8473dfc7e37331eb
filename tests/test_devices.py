"""What holds on a CPU holds on a GPU: run by ``pytest -m cuda`` where there is one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import HVPS, METHODS, OPTIMIZERS, Problem, conv_batchnorm, start, tanh_mlp

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def on(device: str, problem: Problem) -> Problem:
    moved = tree_map(lambda leaf: leaf.to(device), problem[1:])
    return Problem(problem.loss_fn, *moved)


def trained(problem, tuner, hparams, wrap=lambda step: step):
    """The states along a run."""
    state, step = start(problem, tuner, hparams), wrap(tuner.step)
    for batch, val_batch in problem.batches:
        state, info = step(state, batch, val_batch)
        assert info.accepted
    return state


def assert_close(one, other, tolerance):
    for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("hvp", HVPS)
def test_a_run_is_the_one_of_the_cpu(device, hvp):
    problem = conv_batchnorm()
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["sgd_nesterov"], HVPS[hvp])
    here = trained(problem, tuner, {"lr": 0.05, "momentum": 0.8})
    there = trained(on(device, problem), tuner, {"lr": 0.05, "momentum": 0.8})
    assert all(leaf.device.type == device for leaf in tree_leaves(there))
    # a difference divides the rounding of two gradients, 1e-16, by its step, 1e-8 at the least
    assert_close(here, there, 1e-6 if hvp.endswith("_difference") else 1e-10)


@pytest.mark.cuda
@pytest.mark.parametrize("method", METHODS)
def test_compiled_equals_eager(method):
    problem = on("cuda", tanh_mlp())
    tuner = METHODS[method](problem.loss_fn, OPTIMIZERS["adam"], atf.exact)
    hparams = {"lr": 0.01}
    one, two = trained(problem, tuner, hparams), trained(problem, tuner, hparams, atf.jit)
    assert_close(one, two, 1e-10)


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_does_not_wait_for_the_device(device):
    problem = on(device, tanh_mlp())
    tuner = METHODS["marthe_adaptive"](problem.loss_fn, OPTIMIZERS["adam"], atf.exact)
    state = start(problem, tuner, {"lr": 0.01})
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        _, info = tuner.step(state, *problem.batches[0])
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert info.accepted


@pytest.mark.parametrize("device", DEVICES)
def test_a_checkpoint_goes_from_device_to_device(device, tmp_path):
    problem = tanh_mlp()
    tuner = METHODS["marthe"](problem.loss_fn, OPTIMIZERS["adam"], atf.exact)
    state = trained(on(device, problem), tuner, {"lr": 0.01})
    atf.save(state, tmp_path / "state.pt")
    back = atf.load(tmp_path / "state.pt", start(problem, tuner, {"lr": 0.01}))
    assert all(leaf.device.type == "cpu" for leaf in tree_leaves(back))
    assert_close(state, back, 0.0)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_stays_near_float32(device):
    """bfloat16 has 8 bits: the loss after some steps agrees to some per cent."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 5)).to(device)
    x, y = torch.randn(64, 32, device=device), torch.randint(0, 5, (64,), device=device)

    def ending(enabled: bool) -> float:
        def criterion(output, target):
            return F.cross_entropy(output.float(), target)

        class Cast(nn.Module):
            def __init__(self):
                super().__init__()
                self.module = module

            def forward(self, inputs):
                with torch.autocast(device, torch.bfloat16, enabled=enabled):
                    return self.module(inputs)

        loss_fn, params, buffers = atf.functionalize(Cast(), criterion)
        tuner = atf.marthe(loss_fn, atf.sgd(momentum=0.9))
        state = tuner.init(params, {"lr": 0.01}, buffers)
        losses = []
        for _ in range(10):
            state, info = tuner.step(state, (x, y), (x, y))
            assert info.accepted and info.hypergrads["lr"].isfinite()
            losses.append(float(info.val_loss))
        return losses[-1]

    assert ending(True) == pytest.approx(ending(False), rel=0.05)
