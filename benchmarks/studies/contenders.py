"""The methods that ``robustness.py`` compares, by name."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func import schedules, search
from adatune_func.trees import tree_map
from benchmarks.studies import rivals
from benchmarks.studies.tasks import OPTIMIZERS, Outcome, Task

#: ``train(models, starts, pairs)``: the models' runs, each from its start, on the same batches.
Train: TypeAlias = Callable[[Sequence[nn.Module], Sequence[float], Iterable[Any]], list[Outcome]]

#: Schedules of plain training, by start and number of steps.
BASELINES: dict[str, Callable[[float, int], schedules.Schedule]] = {
    "constant": lambda lr, steps: schedules.constant(lr),
    "cosine": lambda lr, steps: schedules.cosine(lr, steps),
    "staircase": lambda lr, steps: schedules.staircase(lr, every=-(-steps // 3), decay=0.1),
}

#: Methods by the papers' rule. Their hyper-learning-rate is searched before each run, on its first
#: batches and from its start; alpha is 0.
ADDITIVE = ("hd", "rtho", "marthe_additive")
SEARCH_STEPS = 200


def _averaged(loss_fn: Any, optimizer: atf.Optimizer) -> atf.Tuner:
    return atf.marthe(loss_fn, atf.averaged(optimizer))


TUNERS: dict[str, Callable[..., atf.Tuner]] = {
    "hd": atf.hd,
    "rtho": atf.rtho,
    "marthe_additive": atf.marthe,
    "marthe": atf.marthe,
    "marthe_averaged": _averaged,
    "marthe_all": atf.marthe,
    "marthe_balanced": functools.partial(atf.marthe, **atf.presets["balanced"]),
    "marthe_fast": functools.partial(atf.marthe, **atf.presets["fast"]),
}

#: What marthe_all tunes beside lr, from these starts.
MORE = {
    "sgd": {"momentum": 0.9, "weight_decay": 1e-4},
    "adamw": {"beta1": 0.9, "beta2": 0.999, "weight_decay": 1e-2},
}

METHODS = (*BASELINES, *TUNERS, *rivals.PACKAGES)


def trainer(method: str, optimizer: str, task: Task, steps: int, together: bool) -> Train:
    """How the method trains. Ours compiles once for all runs: lr is in the state."""
    if method in rivals.PACKAGES:
        return lambda models, starts, pairs: [
            rivals.train(method, optimizer, model, start, steps, pairs)
            for model, start in zip(models, starts, strict=True)
        ]
    loss_fn = atf.functionalize(task.network(), F.cross_entropy).loss_fn
    tuner = _tuner(method, optimizer, loss_fn)
    mapped = torch.func.vmap(tuner.step, in_dims=(0, None, None)) if together else None
    step = atf.jit(mapped or tuner.step)
    more = MORE[optimizer] if method == "marthe_all" else {}

    def train(
        models: Sequence[nn.Module], starts: Sequence[float], pairs: Iterable[Any]
    ) -> list[Outcome]:
        states = []
        for model, start in zip(models, starts, strict=True):
            _, params, buffers = atf.functionalize(model, F.cross_entropy)
            states.append(tuner.init(params, {"lr": start, **more}, buffers))
        if method in ADDITIVE:
            pairs = iter(pairs)
            first = list(itertools.islice(pairs, min(steps, SEARCH_STEPS)))
            states = [searched(tuner, state, first) for state in states]
            pairs = itertools.chain(first, pairs)
        schedule = BASELINES.get(method)
        plans = [schedule(start, steps) for start in starts] if schedule else []
        state, paths, refused = run(step if mapped else _alone(step), states, plans, steps, pairs)
        finals = search.unstack(state)
        if method == "marthe_averaged":
            last = [batch for batch, _ in itertools.islice(pairs, rivals.RECALIBRATION)]
            finals = [atf.recalibrate(loss_fn, atf.averages(its), last) for its in finals]
        for model, its in zip(models, finals, strict=True):
            atf.write_back(model, its)
        return [
            Outcome(model, path[-1], count, path[:-1])
            for model, path, count in zip(models, paths, refused, strict=True)
        ]

    return train


def searched(tuner: atf.Tuner, state: atf.TunerState, batches: Sequence[Any]) -> atf.TunerState:
    """``state`` with the largest hyper-learning-rate of the additive rule that is stable there."""
    found = search.find_hyper_lr(tuner, state, batches, adapt=False)
    rule = atf.additive(found.hyper_lr)
    return state._replace(hyper_state=rule.init(state.hparams))


def run(
    step: Any,
    states: Sequence[atf.TunerState],
    plans: Sequence[schedules.Schedule],
    steps: int,
    pairs: Iterable[Any],
) -> tuple[atf.TunerState, list[list[float]], list[int]]:
    """Runs side by side: the last state, lr at each tenth of a run and its end, null steps."""
    state, lrs = search.stack(states), []
    refused = torch.zeros(len(states), dtype=torch.long)
    for t, (batch, val_batch) in zip(range(steps), pairs, strict=False):
        if plans:
            lr = torch.tensor([float(schedule(t)) for schedule in plans])
            state = state._replace(hparams={"lr": lr})
        if t % max(steps // 10, 1) == 0:
            lrs.append(state.hparams["lr"])
        state, info = step(state, batch, val_batch)
        refused = refused + ~info.accepted
    return state, torch.stack([*lrs, state.hparams["lr"]], 1).tolist(), refused.tolist()


def _tuner(method: str, optimizer: str, loss_fn: Any) -> atf.Tuner:
    if method in BASELINES:
        return atf.plain(loss_fn, OPTIMIZERS[optimizer])
    options = {"hyper_update": atf.additive(0.0)} if method in ADDITIVE else {}
    return TUNERS[method](loss_fn, OPTIMIZERS[optimizer], **options)


def _alone(step: Any) -> Any:
    """``step`` of one state for a stack of one: a convolution under vmap would be a grouped one."""

    def stacked(state: atf.TunerState, *batches: Any) -> Any:
        result = step(tree_map(lambda leaf: leaf[0], state), *batches)
        return tree_map(lambda leaf: leaf[None], result)

    return stacked
