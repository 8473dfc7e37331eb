"""What each rank runs for the tests of ``sharded``: beside the run that keeps all on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

import adatune_func as atf
from adatune_func import replicas
from adatune_func.trees import tree_leaves
from tests.cases import conv_batchnorm
from tests.replicated import jitted, off_by, words

#: Around what is sharded, and around the same whole.
STACKS: dict[str, Callable[[Callable[..., Any]], atf.Optimizer]] = {
    "sgd": lambda spread: spread(atf.sgd(momentum=0.9, weight_decay=1e-2)),
    "adamw": lambda spread: spread(atf.adamw()),
    "lion": lambda spread: spread(atf.lion()),
    "in the recipe": lambda spread: atf.averaged(
        atf.scheduled(atf.clip_grad_norm(spread(atf.adamw()), 0.2), atf.shapes.cooldown(20))
    ),
}


def whole(what: Any) -> Any:
    return what


def size(tree: Any) -> float:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tree))


def runs(name: str, wrap: Callable[[Any], Any] = lambda fn: fn, steps: int = 12) -> dict[str, Any]:
    """How far apart the two runs are, and the bytes of the one as a share of the other's."""
    problem, states, shown = conv_batchnorm(steps=steps), [], []
    for spread in (whole, atf.sharded):
        tuner = atf.marthe(
            problem.loss_fn, STACKS[name](spread), mean=replicas.mean(), bound=atf.begin_again()
        )
        hparams = {"lr": 0.01, "weight_decay": 1e-3}
        state = tuner.init(problem.params, hparams, problem.buffers)
        step = atf.windowed(tuner, atf.windows(4, 3, 5), wrap if spread is atf.sharded else whole)
        for t, batches in enumerate(problem.batches):
            state, info = step(t, state, *replicas.part(batches))
            shown.append(info)
        states.append(state)
    replicas.check(states[1])
    back = atf.resharded(states[1], STACKS[name](whole))
    again = atf.resharded(back, STACKS[name](atf.sharded))
    return {
        "off": max(off_by(back, states[0]), off_by(shown[steps:], shown[:steps])),
        "again": off_by(again, states[1]),
        "bytes": size(states[1]) / size(states[0]),
    }


def poisoned(where: str, wrap: Callable[[Any], Any]) -> list[bool]:
    """A number of one rank's optimizer state is inf, or of its tangent: what all ranks make of it.

    Whether the step was accepted and which columns of Z began again, twice.
    """
    problem = conv_batchnorm(steps=2)
    tuner = atf.marthe(problem.loss_fn, atf.sharded(atf.adamw()), mean=replicas.mean())
    hparams = {"lr": 0.01, "weight_decay": 1e-3}
    state, step = tuner.init(problem.params, hparams, problem.buffers), wrap(tuner.step)
    state, _ = step(state, *replicas.part(problem.batches[0]))
    if dist.get_rank() == 1:
        part = state.opt_state if where == "state" else state.z.opt_state
        numbers = tree_leaves(part.of_this_rank.exp_avg_sq)[0]
        (numbers if where == "state" else numbers[0]).fill_(torch.inf)  # of lr's column
    seen = []
    for _ in range(2):
        state, info = step(state, *replicas.part(problem.batches[1]))
        seen += [bool(x) for x in (info.accepted, *info.z_reset.values())]
        replicas.check(state)
    return seen


def said() -> dict[str, str]:
    """Optimizers that cannot be sharded, and the words for it."""
    found: dict[str, str] = {}
    params = {"w": torch.randn(4, 3), "b": torch.randn(3)}
    refused = {
        "muon": lambda: atf.sharded(atf.muon()),
        "norm": lambda: atf.sharded(atf.clip_grad_norm(atf.sgd(), 0.1)),
        "large norm, adam": lambda: atf.sharded(atf.clip_grad_norm(atf.adamw(), 100.0)),
        "average": lambda: atf.sharded(atf.averaged(atf.sgd())),
    }
    for name, make in refused.items():
        with words(found, name):
            make().init(params)
    with words(found, "by name"):
        atf.sharded(atf.by_ratio(atf.adamw(), lr={"w": 10.0, "b": 1.0})).init(params)
    return found


def all_checks() -> dict[str, Any]:
    return {
        **{name: runs(name) for name in STACKS},
        "jit": runs("in the recipe", jitted),
        "poisoned": {
            (where, how): poisoned(where, wrap)
            for where in ("state", "tangent")
            for how, wrap in (("eager", whole), ("jit", jitted))
        },
        "said": said(),
    }
