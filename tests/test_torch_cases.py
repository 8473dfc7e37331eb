"""torch's own cases of its optimizers, over ours: each keyword offered, the others by name."""

from __future__ import annotations

import inspect
import re
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import pytest
import torch

import adatune_func as atf
from tests.test_optimizers import gradients, run

if "expecttest" not in sys.modules:  # torch's test code imports it; no case needs it
    stand_in = types.ModuleType("expecttest")
    stand_in.__dict__.update(TestCase=unittest.TestCase)
    sys.modules["expecttest"] = stand_in
    from torch.testing._internal.common_optimizers import optim_db

    del sys.modules["expecttest"]
else:
    from torch.testing._internal.common_optimizers import optim_db

OURS = {"SGD": atf.sgd, "Adam": atf.adam, "AdamW": atf.adamw}

#: What torch.optim takes and we do not, with what a page says of it.
NOT_OFFERED = {
    "amsgrad",
    "capturable",
    "decoupled_weight_decay",
    "differentiable",
    "foreach",
    "fused",
    "maximize",
}

#: Names of one thing that differ.
RENAMED = {"betas": ("beta1", "beta2")}


def cases():
    """``(name, keywords)`` of every case whose keywords we offer; "mps" adds lr as a tensor."""
    seen = {}
    for info in optim_db:
        cls: Any = info.optim_cls  # torch's annotation is of an instance
        name = cls.__name__
        for device in ("cpu", "mps") if name in OURS else ():
            for case in info.optim_inputs_func(device=device):
                if not NOT_OFFERED & set(case.kwargs):
                    seen[f"{name}: {case.desc}"] = (name, case.kwargs)
    return seen


CASES = cases()


def test_every_optimizer_has_its_cases():
    for name in OURS:
        assert sum(case[0] == name for case in CASES.values()) >= 3


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_equal_torch_optim(case):
    name, words = CASES[case]
    # in float32 a tensor lr rounds what torch computes with it, as lr / (1 - beta1^t)
    words = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in words.items()}
    start, *grads = gradients()
    leaves = [p.clone().requires_grad_() for p in start.values()]
    twin = getattr(torch.optim, name)(leaves, **words)
    for g in grads:
        for p, key in zip(leaves, start, strict=True):
            p.grad = g[key].clone()
        twin.step()
    defaults = twin.defaults | words  # torch's, not ours: SGD and AdamW differ in weight_decay
    offered = inspect.signature(OURS[name]).parameters
    options = {key: value for key, value in defaults.items() if key in offered}
    for theirs, names in RENAMED.items():
        options |= dict(zip(names, defaults.get(theirs, ()), strict=False))
    optimizer = OURS[name](**options)
    params = run(optimizer, start, grads, optimizer.hparams)
    for p, key in zip(leaves, start, strict=True):
        torch.testing.assert_close(params[key], p.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OURS)
def test_defaults_are_torchs(name):
    ours = inspect.signature(OURS[name]).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    for key in set(ours) & set(theirs):
        assert ours[key].default == theirs[key].default, key


def test_what_is_not_offered_is_what_the_page_says():
    lacking = set()
    for name, ours in OURS.items():
        theirs = set(inspect.signature(getattr(torch.optim, name)).parameters) - {"params"}
        lacking |= theirs - set(inspect.signature(ours).parameters) - set(RENAMED)
    assert lacking == NOT_OFFERED
    page = (Path(__file__).parents[1] / "docs/api/optimizers.md").read_text()
    table = page.split("## What torch.optim has beside this")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.M)) == NOT_OFFERED
