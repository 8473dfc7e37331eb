"""What each rank runs for the large grid: methods, strategies, optimizers, faults, long runs.

Eager, through one graph (``aot_eager``), and a few through inductor. BatchNorm normalises by rank,
so the one process that ranks are compared with normalises by the parts of its batch
(``replicated.by_parts``); its running statistics are the means of the parts', on both sides.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import torch

import adatune_func as atf
from adatune_func.trees import tree_map
from tests.cases import HVPS, METHODS, OPTIMIZERS, PROBLEMS, Problem, conv_batchnorm
from tests.replicated import EXACT, Build, apart, built, long_run, poisoned

STEPS = 20

#: A bias in front of BatchNorm has gradient 0, and Adam makes steps of the rounding that is left.
GRID_PROBLEMS = {**PROBLEMS, "conv_batchnorm": functools.partial(conv_batchnorm, bias=False)}
STRATEGIES = (EXACT, "reverse_over_reverse", "finite_difference", "gauss_newton", "no_curvature")
BOTH = ("sgd_momentum", "adamw")
CLIPPED = {name: atf.clip_grad_norm(OPTIMIZERS[name], 0.2) for name in BOTH}

WRAPS: dict[str, Any] = {
    "eager": lambda fn: fn,
    "aot_eager": lambda fn: atf.jit(fn, backend="aot_eager"),
    "inductor": atf.jit,
}


class Case(NamedTuple):
    """One run; ``clipped`` by the global norm of the gradient, ``hvp`` one of ``HVPS``."""

    method: str
    optimizer: str
    hvp: str
    problem: str
    clipped: bool = False
    how: str = "eager"


def of_strategies(methods: tuple[str, ...], problems: tuple[str, ...]) -> list[Case]:
    return [Case(*which) for which in itertools.product(methods, BOTH, STRATEGIES, problems)]


def without_products(problems: tuple[str, ...]) -> list[Case]:
    """Methods in which no product is taken, or none that is not 0."""
    methods = ("hd", "plain", "train")
    return [
        Case(m, opt, "no_curvature", p) for m, opt, p in itertools.product(methods, BOTH, problems)
    ]


def by_norm() -> list[Case]:
    """Clipping and accumulation, alone and together."""
    which = itertools.product(BOTH, (EXACT, "accumulated"), (True, False))
    return [Case("marthe", opt, hvp, "conv_batchnorm", clipped) for opt, hvp, clipped in which]


SEEN_ONCE = [
    *(Case(method, "adamw", EXACT, "conv_batchnorm") for method in METHODS),
    *(Case("marthe", opt, EXACT, "tanh_mlp") for opt in OPTIMIZERS if opt not in BOTH),
    *(Case("marthe", "adamw", hvp, "tanh_mlp") for hvp in ("central_difference", "on_fraction")),
]

TRACED = [
    *of_strategies(("marthe",), ("conv_batchnorm",)),
    *(Case("rtho", opt, EXACT, "conv_batchnorm") for opt in BOTH),
    *without_products(("conv_batchnorm",)),
    *by_norm(),
]

CASES: list[Case] = [
    *of_strategies(("marthe", "rtho"), ("tanh_mlp", "conv_batchnorm")),
    *without_products(("tanh_mlp", "conv_batchnorm")),
    *by_norm(),
    *SEEN_ONCE,
    *(case._replace(how="aot_eager") for case in dict.fromkeys(TRACED)),
    *(Case("marthe", opt, EXACT, "conv_batchnorm", how="inductor") for opt in BOTH),
]


def of_24(problem: str) -> Problem:
    """With batches that four ranks can halve once more: two of the list's make one."""
    small = GRID_PROBLEMS[problem](steps=2 * STEPS)
    pairs = zip(small.batches[::2], small.batches[1::2], strict=True)
    whole = [tree_map(lambda *rows: torch.cat(rows)[:24], *pair) for pair in pairs]
    return small._replace(batches=whole)


def builder(case: Case) -> Build:
    if not case.clipped:
        return built("marthe" if case.method == "train" else case.method, case.optimizer, case.hvp)

    def build(loss_fn: Any, mean: Any) -> atf.Tuner:
        return METHODS[case.method](loss_fn, CLIPPED[case.optimizer], HVPS[case.hvp], mean=mean)

    return build


def run(case: Case) -> float:
    """How far ranks are from one process after all steps."""
    trains = case.method == "train"
    problem, wrap = of_24(case.problem), WRAPS[case.how]
    return apart(builder(case), problem, only_train=lambda t: trains, wrap=wrap)


def large_grid() -> dict[str, Any]:
    """All of it, in one life of the processes."""
    return {
        "grid": {case: run(case) for case in dict.fromkeys(CASES)},
        "poisoned": poisoned(steps=400, faults=50),
        "long": {how: long_run(WRAPS[how]) for how in ("eager", "aot_eager")},
    }
