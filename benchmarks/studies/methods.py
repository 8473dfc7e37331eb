"""The steps that ``speed.py`` times, each behind ``step(batch, val_batch)`` with a state inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from benchmarks.studies.classic import Step, classic, torch_optim

RULE = atf.relative(step=1e-8)  # the default rule; the learning rate hardly moves


class Method(NamedTuple):
    """``build(module, optimizer) -> step`` and its floor of matrix work over plain training."""

    build: Callable[[nn.Module, str], Step]
    floor: float | None = None
    steps: int = 1  # of training, in one call


def functional(
    tuner_of: Callable[[Any, Any], atf.Tuner],
    *,
    wrap: Callable[..., Any] | None = None,
    tuned: bool = True,
) -> Callable[[nn.Module, str], Step]:
    """A step of this package, ``tuner_of(loss_fn, optimizer)``, fed back into itself."""

    def build(module: nn.Module, optimizer: str) -> Step:
        loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
        lr = 1e-4 if optimizer == "adam" else 1e-3
        chosen = atf.adam(lr=lr, eps=1e-4) if optimizer == "adam" else atf.sgd(lr, momentum=0.9)
        tuner = tuner_of(loss_fn, chosen)
        state = tuner.init(params, {"lr": lr} if tuned else {}, buffers)
        advance = (wrap or atf.jit)(tuner.step)

        def step(batch: Any, val_batch: Any) -> None:
            nonlocal state
            state, _ = advance(state, batch, val_batch)

        return step

    return build


def marthe(
    hvp: Any = atf.exact, *, wrap: Callable[..., Any] | None = None, **arguments: Any
) -> Any:
    return functional(
        lambda loss_fn, o: atf.marthe(loss_fn, o, hyper_update=RULE, hvp=hvp, **arguments),
        wrap=wrap,
    )


def by_dynamo(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What ``jit`` competes with; looked up when it is called, for tests do without a compiler."""
    return torch.compile(fn, fullgraph=True)


def with_cuda_graphs(fn: Callable[..., Any]) -> Callable[..., Any]:
    return atf.jit(fn, options={"triton.cudagraphs": True})


def with_own_layouts(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Convolutions on a CPU in the layout that inductor chooses, and not in their own."""
    return atf.jit(fn, options={"layout_optimization": True})


def in_eager(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn


def quarter_validation(hvp: Any) -> Any:
    """Validation on the first quarter of the batch that the others get."""

    def build(module: nn.Module, optimizer: str) -> Step:
        step = marthe(hvp)(module, optimizer)
        return lambda batch, val: step(batch, tuple(v[: len(v) // 4] for v in val))

    return build


def in_windows(length: int) -> Method:
    """The recipe far into a long run, ten steps a call of which ``length`` tune, as of each 250."""

    def build(module: nn.Module, optimizer: str) -> Step:
        loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
        chosen = atf.adam(eps=1e-4) if optimizer == "adam" else atf.sgd(momentum=0.9)
        due = atf.windows(0, length, TEN)
        run = atf.recipe(loss_fn, chosen, due=due, wrap=atf.jit, hyper_update=RULE)
        state = run.init(params, {"lr": 1e-4 if optimizer == "adam" else 1e-3}, buffers)

        def steps(batch: Any, val_batch: Any) -> None:
            nonlocal state
            for t in range(TEN):
                state, _ = run.step(t, state, batch, val_batch)

        return steps

    return Method(build, 1 + 3 * length / TEN, TEN)


def _classic(module: nn.Module, optimizer: str) -> Step:
    if optimizer != "sgd":
        raise ValueError("the classic formulation is written out for sgd with momentum only")
    return classic(module)[0]


def _part(share: int) -> Any:
    return atf.on_fraction(atf.exact, 1 / share)


TEN = 10  # the least number of steps of which a fifth and a tenth are whole

BASELINE = "torch.optim compiled"

METHODS: dict[str, Method] = {
    BASELINE: Method(lambda m, o: torch_optim(m, True, o == "adam"), 1.0),
    "torch.optim eager": Method(lambda m, o: torch_optim(m, False, o == "adam"), 1.0),
    "classic eager": Method(_classic, 4.0),
    "plain": Method(functional(atf.plain, tuned=False), 1.0),
    "hd": Method(functional(lambda loss_fn, o: atf.hd(loss_fn, o, hyper_update=RULE)), 1.0),
    "exact": Method(marthe(), 4.0),
    "exact by torch.compile": Method(marthe(wrap=by_dynamo), 4.0),
    "exact eager": Method(marthe(wrap=in_eager), 4.0),
    "plain, inductor's layouts": Method(
        functional(atf.plain, tuned=False, wrap=with_own_layouts), 1.0
    ),
    "exact, inductor's layouts": Method(marthe(wrap=with_own_layouts), 4.0),
    "recipe": in_windows(2),
    "recipe, half the length": in_windows(1),
    "exact, CUDA graphs": Method(marthe(wrap=with_cuda_graphs), 4.0),
    "exact, next batch": Method(marthe(outer="next_batch"), 3.0),
    "reverse_over_reverse": Method(marthe(atf.reverse_over_reverse), 4.0),
    "finite_difference": Method(marthe(atf.finite_difference()), 3.0),
    "gauss_newton": Method(marthe(atf.gauss_newton), 10 / 3),
    "no_curvature": Method(marthe(atf.no_curvature), 2.0),
    "balanced": Method(marthe(**atf.presets["balanced"]), 11 / 6),
    "smooth": Method(marthe(**atf.presets["smooth"]), 2.0),
    "fast": Method(marthe(**atf.presets["fast"]), 29 / 24),
    "exact on 1/2, next batch": Method(marthe(_part(2), outer="next_batch"), 7 / 3),
    "exact in 4 parts": Method(marthe(atf.accumulate(atf.exact, 4)), 4.0),
    "exact on 1/4": Method(marthe(_part(4)), 8 / 3),
    "exact on 1/4, validation on 1/4": Method(quarter_validation(_part(4)), 23 / 12),
    "exact on 1/4, next batch": Method(marthe(_part(4), outer="next_batch"), 5 / 3),
    "exact on 1/8, next batch": Method(marthe(_part(8), outer="next_batch"), 4 / 3),
}
