"""Optimizers of other packages that need no tuning, or less, trained as their own pages say."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

from benchmarks.studies.tasks import Outcome

#: (module, class, arguments by start) for each optimizer.
PACKAGES: dict[str, dict[str, tuple[str, str, Callable[[float], dict[str, Any]]]]] = {
    "schedule_free": {
        "sgd": ("schedulefree", "SGDScheduleFree", lambda lr: {"lr": lr, "momentum": 0.9}),
        "adamw": ("schedulefree", "AdamWScheduleFree", lambda lr: {"lr": lr, "weight_decay": 0.01}),
    },
    "prodigy": {
        "adamw": ("prodigyopt", "Prodigy", lambda d0: {"d0": d0, "weight_decay": 0.01}),
    },
    "d_adaptation": {
        "sgd": ("dadaptation", "DAdaptSGD", lambda d0: {"d0": d0, "momentum": 0.9}),
        "adamw": (
            "dadaptation",
            "DAdaptAdam",
            lambda d0: {"d0": d0, "weight_decay": 0.01, "decouple": True},
        ),
    },
}


def available(method: str, optimizer: str) -> bool:
    """Whether the method exists for the optimizer and its package is installed; says if not."""
    if method not in PACKAGES:
        return True
    if optimizer not in PACKAGES[method]:
        return False
    package = PACKAGES[method][optimizer][0]
    if importlib.util.find_spec(package) is None:
        print(f"{method} left out: pip install {package}")
        return False
    return True


#: Batches on which BatchNorm's statistics are re-estimated for whoever is judged at an average.
RECALIBRATION = 50


def train(
    method: str, optimizer: str, model: nn.Module, start: float, steps: int, pairs: Any
) -> Outcome:
    module, name, arguments = PACKAGES[method][optimizer]
    opt = getattr(importlib.import_module(module), name)(model.parameters(), **arguments(start))
    modes = method == "schedule_free"  # it trains at one point and is evaluated at another
    if modes:
        opt.train()
    for _, ((x, y), _) in zip(range(steps), pairs, strict=False):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()
    if modes:
        opt.eval()
        # Running statistics of the averaged weights, as its README asks; ours at an average, too.
        update_bn((x for (x, _), _ in itertools.islice(pairs, RECALIBRATION)), model)
    group = opt.param_groups[0]
    return Outcome(model, group["lr"] * group.get("d", 1.0), 0, [])
