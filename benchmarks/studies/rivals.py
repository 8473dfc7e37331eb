"""Optimizers of other packages that need no tuning, or less, trained as their own pages say.

Prodigy, D-Adaptation and Mechanic with a cosine over the run; for the first two lr is 1 and a start
is their first guess d0, for Mechanic it is the lr of the optimizer that it scales. Schedule-free
with a warm-up over a twentieth of the run, evaluated at its average.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

from benchmarks.studies.tasks import Outcome

#: (module, what it makes an optimizer of, arguments by start) for each optimizer.
PACKAGES: dict[
    str, dict[str, tuple[str, Callable[[Any], Any], Callable[[float], dict[str, Any]]]]
] = {
    "schedule_free": {
        "sgd": (
            "schedulefree",
            lambda module: module.SGDScheduleFree,
            lambda lr: {"lr": lr, "momentum": 0.9},
        ),
        "adamw": (
            "schedulefree",
            lambda module: module.AdamWScheduleFree,
            lambda lr: {"lr": lr, "weight_decay": 0.01},
        ),
    },
    "prodigy": {
        "adamw": (
            "prodigyopt",
            lambda module: module.Prodigy,
            lambda d0: {"d0": d0, "weight_decay": 0.01},
        ),
    },
    "d_adaptation": {
        "sgd": (
            "dadaptation",
            lambda module: module.DAdaptSGD,
            lambda d0: {"d0": d0, "momentum": 0.9},
        ),
        "adamw": (
            "dadaptation",
            lambda module: module.DAdaptAdam,
            lambda d0: {"d0": d0, "weight_decay": 0.01, "decouple": True},
        ),
    },
    "mechanic": {
        "sgd": (
            "mechanic_pytorch",
            lambda module: module.mechanize(torch.optim.SGD),
            lambda lr: {"lr": lr, "momentum": 0.9},
        ),
        "adamw": (
            "mechanic_pytorch",
            lambda module: module.mechanize(torch.optim.AdamW),
            lambda lr: {"lr": lr},
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
    method: str,
    optimizer: str,
    model: nn.Module,
    start: float,
    steps: int,
    pairs: Any,
    criterion: Callable[..., torch.Tensor] = F.cross_entropy,
) -> Outcome:
    module, make, arguments = PACKAGES[method][optimizer]
    free = method == "schedule_free"  # it trains at one point and is evaluated at another
    more = {"warmup_steps": steps // 20} if free else {}
    made = make(importlib.import_module(module))
    opt = made(model.parameters(), **arguments(start), **more)
    plan = None if free else torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    if free:
        opt.train()
    for _, ((x, y), _) in zip(range(steps), pairs, strict=False):
        opt.zero_grad()
        criterion(model(x), y).backward()
        opt.step()
        if plan is not None:
            plan.step()
    if free:
        opt.eval()
        # Running statistics of the averaged weights, as its README asks; ours at an average, too.
        update_bn((x for (x, _), _ in itertools.islice(pairs, RECALIBRATION)), model)
    group = opt.param_groups[0]
    return Outcome(model, group["lr"] * group.get("d", 1.0), 0, [])
