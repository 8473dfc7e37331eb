"""bfloat16 inside the loss, float32 for all that is carried; less is refused, and why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import dot, norm, tree_leaves

NORMS = {
    "batch_norm": lambda: nn.BatchNorm1d(16),
    "layer_norm": lambda: nn.LayerNorm(16),
    "group_norm": lambda: nn.GroupNorm(4, 16),
}


class Autocast(nn.Module):
    def __init__(self, module: nn.Module, on: bool) -> None:
        super().__init__()
        self.module, self.on = module, on

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.on):
            return self.module(x)


def run(name: str, narrow: bool, steps: int = 30):
    """A run on four clusters; the state at its end, and the accuracy on what it has not seen."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), NORMS[name](), nn.GELU(), nn.Linear(16, 4))
    loss_fn, params, buffers = atf.functionalize(Autocast(module, narrow), F.cross_entropy)
    tuner = atf.marthe(loss_fn, atf.adamw(eps=1e-4))
    state = tuner.init(params, {"lr": 2e-3}, buffers)
    centers = 2 * torch.randn(4, 6)

    def draw():
        target = torch.randint(0, 4, (64,))
        return centers[target] + 0.7 * torch.randn(64, 6), target

    for _ in range(steps):
        state, _ = tuner.step(state, draw(), draw())
    atf.write_back(
        module,
        state._replace(
            params={n.removeprefix("module."): p for n, p in state.params.items()},
            buffers={n.removeprefix("module."): b for n, b in state.buffers.items()},
        ),
    )
    x, y = draw()
    return state, float((module.eval()(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize("name", NORMS)
def test_bfloat16_inside_the_loss_is_near_float32(name):
    """Exact products through a norm: over 30 steps of AdamW Z points where float32's does."""
    (narrow, narrow_accuracy), (wide, accuracy) = run(name, True), run(name, False)
    assert {leaf.dtype for leaf in tree_leaves(narrow) if leaf.is_floating_point()} == {
        torch.float32
    }
    a, b = narrow.z.params, wide.z.params
    cosine = float(dot(a, b) / norm(a) / norm(b))
    assert 0.98 < cosine < 1 - 1e-7  # and is not float32's own
    assert float(narrow.hparams["lr"]) == pytest.approx(float(wide.hparams["lr"]), rel=0.05)
    assert accuracy > 0.8 and abs(narrow_accuracy - accuracy) <= 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_of_16_bits_are_refused(dtype):
    w = torch.ones((), dtype=dtype)
    assert w - 2e-4 == w  # 200 steps of lr 1e-3 and gradient 0.2 would leave it where it is
    f = atf.functionalize(nn.Linear(3, 2).to(dtype), F.cross_entropy)
    for tuner in (atf.marthe(f.loss_fn, atf.sgd()), atf.plain(f.loss_fn, atf.sgd())):
        with pytest.raises(TypeError, match=rf"{dtype} rounds away .* module.float\(\)"):
            tuner.init(f.params, {"lr": 0.1})


def test_a_step_under_float16_autocast_is_refused():
    f = atf.functionalize(nn.Linear(3, 2), F.cross_entropy)
    tuner = atf.marthe(f.loss_fn, atf.sgd())
    state, batch = tuner.init(f.params, {"lr": 0.01}), (torch.randn(4, 3), torch.arange(4) % 2)
    for step in (tuner.step, atf.jit(tuner.step, backend="eager")):
        with (
            torch.autocast("cpu", torch.float16),
            pytest.raises(TypeError, match=r"take torch.bfloat16"),
        ):
            step(state, batch, batch)
        with torch.autocast("cpu", torch.bfloat16):  # taken at its word
            assert step(state, batch, batch)[1].accepted


def halved(z_dtype, wrap=lambda fn: fn, steps: int = 40):
    """A run in windows, of two tuned scalars; its last state, and h of each tuned step."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 4))
    f = atf.functionalize(module, F.cross_entropy)
    run = atf.recipe(
        f.loss_fn, atf.adamw(eps=1e-4), due=atf.windows(20, 5, 10), wrap=wrap, z_dtype=z_dtype
    )
    state = run.init(f.params, {"lr": 2e-3, "weight_decay": 1e-2}, f.buffers)
    seen = []
    for t in range(steps):
        x, y = torch.randn(64, 6), torch.randint(0, 4, (64,))
        x = x * torch.nan if t == 10 else x  # a null step
        state, info = run.step(t, state, (x, y), (x, y))
        seen += [info.hypergrads] if run.due(t) and info.accepted else []
    return state, seen


def test_z_waits_in_bfloat16():
    """Half the bytes, h within some per cent of float32's, and the same through a graph."""
    (narrow, ours), (wide, theirs) = halved(torch.bfloat16), halved(None)
    for part, dtype in ((narrow.z, torch.bfloat16), (wide.z, torch.float32)):
        assert {leaf.dtype for leaf in tree_leaves(part)} == {dtype}
    assert {leaf.dtype for leaf in tree_leaves(narrow._replace(z=()))} == {
        leaf.dtype for leaf in tree_leaves(wide._replace(z=()))
    }
    for name in ("lr", "weight_decay"):
        a, b = (torch.stack([h[name] for h in seen]) for seen in (ours, theirs))
        assert len(a) == 29
        assert float((a - b).norm() / b.norm()) < 0.03 and not torch.equal(a, b)
    traced, _ = halved(torch.bfloat16, lambda fn: atf.jit(fn, backend="eager"))
    for a, b in zip(tree_leaves(traced), tree_leaves(narrow), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0.02, atol=1e-3)


def test_z_in_float16_is_refused():
    f = atf.functionalize(nn.Linear(3, 2), F.cross_entropy)
    tuner = atf.marthe(f.loss_fn, atf.sgd(), z_dtype=torch.float16)
    with pytest.raises(ValueError, match=r"z_dtype must be .* overflow at 65504"):
        tuner.init(f.params, {"lr": 0.1})
