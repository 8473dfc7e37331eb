"""The recipe on what breaks runs: NaN, spikes, no gradients, wild starts, labels swapped."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import tree_leaves, tree_map, tree_paths
from tests.cases import OPTIMIZERS
from tests.hostile import keep

KINDS = ("nan", "spikes", "nothing", "constant", "tiny", "huge", "shuffled", "swapped")
STARTS = (1e-12, 1e-6, 0.1, 1e3, 1e6)
SCALES = {"nothing": 0.0, "constant": 0.0, "tiny": 6e-8, "huge": 6e4}


def draw(kind, teacher, late):
    """A batch of 16; of NaN or a thousand times too large one of twenty, from late on swapped."""
    x = torch.randn(16, 10)
    y = (x @ teacher).argmax(1)
    rare = bool(torch.rand(()) < 0.05)
    if kind == "shuffled":
        y = torch.randint(4, (16,))
    elif kind == "swapped" and late:
        y = 3 - y
    x = SCALES.get(kind, 1.0) * x + (kind == "constant")
    if kind == "spikes" and rare:
        x = 1e3 * x
    return torch.full_like(x, float("nan")) if kind == "nan" and rare else x, y


def runs(optimizer, members, steps):
    """Runs side by side in windows, to their end: how often refused, and what went wrong."""
    model = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    loss_fn, _, _ = atf.functionalize(model, F.cross_entropy)
    its = atf.recipe(
        loss_fn,
        OPTIMIZERS[optimizer],
        steps,
        due=atf.windows(steps // 4, 5, 15),
        wrap=torch.func.vmap,
    )
    states, teacher = [], torch.randn(10, 4)
    for _, lr, seed in members:
        torch.manual_seed(seed)
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        _, params, buffers = atf.functionalize(model, F.cross_entropy)
        states.append(its.init(params, {"lr": lr}, buffers))
    state = tree_map(lambda *leaves: torch.stack(leaves), *states)
    refused = torch.zeros(len(members), dtype=torch.long)
    wrong = [set() for _ in members]
    for t in range(steps):
        late = t > steps // 2
        pairs = [tuple(draw(kind, teacher, late) for _ in range(2)) for kind, _, _ in members]
        batch, val_batch = tree_map(lambda *leaves: torch.stack(leaves), *pairs)
        state, info = its.step(t, state, batch, val_batch)
        refused += ~info.accepted
        for path, leaf in zip(tree_paths(state), tree_leaves(state), strict=True):
            finite = leaf.isfinite().flatten(1).all(1) if leaf.ndim > 1 else leaf.isfinite()
            for i in (~finite).nonzero().flatten().tolist():
                wrong[i].add(f"{path} is not finite")
        lr = state.hparams["lr"]
        for i in ((lr < 1e-12 * (1 - 1e-6)) | (lr > 1e6 * (1 + 1e-6))).nonzero().flatten().tolist():
            wrong[i].add(f"lr = {float(lr[i]):g}")
    return [
        {"optimizer": optimizer, "kind": kind, "lr": lr, "seed": seed}
        | {"refused": int(refused[i]), "wrong": sorted(wrong[i])}
        for i, (kind, lr, seed) in enumerate(members)
    ]


def test_a_sample_breaks_nothing():
    members = list(zip(KINDS, itertools.cycle(STARTS), range(len(KINDS)), strict=False))
    for result in runs("sgd_momentum", members, steps=40):
        assert result["wrong"] == [], result


@pytest.mark.acceptance
def test_five_hundred_and_sixty_runs():
    steps, members = 120, list(itertools.product(KINDS, STARTS, range(7)))
    results = [row for name in ("sgd_momentum", "adamw") for row in runs(name, members, steps)]
    assert keep("hostile_recipe", results, steps) == []
