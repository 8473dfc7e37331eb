"""A rule with nothing to set: hyperparameters move by bounded steps in their natural coordinates.

Each hyperparameter η moves on its line x, log η for most (:mod:`.coordinates`), by a step whose
size depends neither on the scale of the loss nor on that of η:

    d ← h · dη/dx                                         dE/dx, clipped to ± OUTLIER · r̂
    m ← decay_m·m + (1 - decay_m)·d
    r ← √(decay_r·r² + (1 - decay_r)·d²)
    x ← x - step / (1 + n/halving) · clip(m̂ / r̂, -1, 1)  after n moves; a tenth of it near one

with the bias of both averages taken out as in Adam. Where the sign of d is noise, m is small
beside r and x hardly moves; where it is certain, x moves by the whole step. The step falls as 1/n,
fast enough for noise to average out and slowly enough to reach any η in the end (Robbins & Monro
1951). It is h that is averaged and not its cosine: the outer loss to lower is the mean over
batches, and one step too far costs more than many steps gain (benchmarks/LOG.md, "The outer rule").

**Two witnesses.** Where the outer loss is taken at an average of the weights there are two h, that
one and that of the training batch at w, and each errs on a side of its own. At w less lr looks
better than it is: it takes away at once the noise that a batch puts on w (Wu et al. 2018, arXiv
1803.02021). At the average more lr looks better than it is while Z is younger than the average is
long: whatever moves w further makes up for the average's lag. So x moves where both agree, by the
smaller of the two ratios times the share that it is of the larger, and stays where they differ:

    x ← x - trust · step / (1 + n/halving) · agreed(ratio_judged, ratio_here)
    agreed(a, b) = sign(a) · min(|a|, |b|)² / max(|a|, |b|) where ab > 0, else 0

with trust the share of the average's length that Z has lived, at most 1. Witnesses that differ in
size are believed less: the larger one is the bias that it is known for, and the smaller has some of
it. By the smaller one alone, minmod, noise is a ratchet besides: let b be certain of less lr and a
noise of size s around 0, then half of it agrees, and x drifts by 0.4·s of a step at each, with the
share by s²/2|b|. Without an average the two are one, agreed(a, a) = a to the last bit, and trust
is 1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..trees import HParams, Signal, tree_leaves, tree_map
from .coordinates import LOWEST, NEAR_ONE, Line, lines_of, mapped, slope
from .hyper_update import DOMAINS, HyperUpdate, check_domains, keep_finite, lowest_lr

#: The step of what moves on log(1 - η), relative to that of the others (``benchmarks/LOG.md``,
#: "More than lr").
SLOWER = 0.1

#: One wild hypergradient counts as at most this many ordinary ones: r must not freeze the rule.
OUTLIER = 10.0


#: What is left of lr where training expands, so that its tangent began again (:mod:`.bound`).
BACK = 0.9


class Memory(NamedTuple):
    """Of the hypergradients at one point."""

    m: HParams
    r: HParams
    seen: HParams  # how many so far, without those that are 0 or not finite


class RelativeState(NamedTuple):
    judged: Memory
    here: Memory
    step: Tensor
    halving: Tensor
    decay_m: Tensor
    decay_r: Tensor


def relative(
    step: float = 0.1,
    halving: float = 100.0,
    decays: tuple[float, float] = (0.9, 0.99),
    longest: float = 0.03,
    domains: Mapping[str, tuple[float, float]] | None = None,
) -> HyperUpdate:
    """``x ← x - step/(1 + n/halving) · clip(m̂/r̂, -1, 1)``, x = log η or log(1 - η); see the module.

    The default of ``marthe``, ``rtho`` and ``hd``. Where h is 0 or not finite nothing moves.

    Args:
        step: how far x moves at most in the first steps, in nats: 0.1 is 10 % of lr, and takes a
            learning rate over a decade in 26 steps.
        halving: after how many steps it is half of that; ``inf`` leaves it.
        decays: of m and r, in [0, 1).
        longest: no step of training is longer than this times 1 + ‖w‖, lr is lowered instead: what
            brings a start that is far too high down at once. ``inf`` for problems that sound
            training solves in less than some thirty steps.
        domains: name to (low, high), on top of ``DOMAINS``.

    Raises:
        ValueError: at init, for a hyperparameter outside its domain or at 0 where it moves on
            log η, a step, halving or longest that is not positive, or a decay outside [0, 1).
    """

    known = {**DOMAINS, **(domains or {})}

    def init(hparams: HParams) -> RelativeState:
        check_domains(hparams, domains)
        _check_can_move(hparams, lines_of(hparams, known))
        if not 0 < step < float("inf") or not halving > 0:
            raise ValueError(f"step and halving must be positive, got {step} and {halving}")
        if not longest > 0:
            raise ValueError(f"longest must be positive, got {longest}")
        if not all(0 <= decay < 1 for decay in decays):
            raise ValueError(f"decays must lie in [0, 1), got {decays}")
        zeros = [tree_map(torch.zeros_like, hparams) for _ in range(6)]
        like = next(iter(tree_leaves(hparams)), torch.zeros(()))
        numbers = (torch.full_like(like, v) for v in (step, halving, *decays))
        return RelativeState(Memory(*zeros[:3]), Memory(*zeros[3:]), *numbers)

    def update(
        signal: Signal, state: RelativeState, hparams: HParams
    ) -> tuple[HParams, RelativeState]:
        lines = lines_of(hparams, known)
        judged, ratio = _looked(state, state.judged, lines, signal.hypergrads, hparams)
        here, other = _looked(state, state.here, lines, signal.here, hparams)
        moved = state._replace(judged=judged, here=here)
        sizes = {name: SLOWER if name in NEAR_ONE else 1.0 for name in hparams}
        delta = {
            name: tree_map(
                functools.partial(_delta, moved, sizes[name]),
                *(tree[name] for tree in (ratio, other, judged.seen, signal.trust)),
            )
            for name in hparams
        }
        return mapped(_moved, lines, hparams, delta), moved

    def within(others: Mapping[str, tuple[float, float]]) -> HyperUpdate:
        return relative(step, halving, decays, longest, {**others, **(domains or {})})

    return HyperUpdate(init, update, longest, max(lowest_lr(domains), LOWEST), BACK, known, within)


def _slope_of_loss(line: Line, h: Tensor, eta: Tensor) -> Tensor:
    """``dE/dx = h · dη/dx``."""
    return h * slope(line, eta)


def _looked(
    state: RelativeState,
    memory: Memory,
    lines: Mapping[str, Line],
    hypergrads: HParams,
    hparams: HParams,
) -> tuple[Memory, HParams]:
    """A memory with one more hypergradient in it, and ``clip(m̂ / r̂, -1, 1)``, 0 for none."""
    raw = mapped(_slope_of_loss, lines, hypergrads, hparams)
    seen = tree_map(lambda d: d.isfinite() & (d != 0), raw)
    usual = tree_map(lambda r, n: _unbiased(r, state.decay_r, n, 0.5), memory.r, memory.seen)
    d = tree_map(_clipped, raw, seen, usual, memory.seen)
    m = tree_map(
        lambda d, m, s: torch.where(s, state.decay_m * m + (1 - state.decay_m) * d, m),
        *(d, memory.m, seen),
    )
    keep, take = torch.sqrt(state.decay_r), torch.sqrt(1 - state.decay_r)
    r = tree_map(
        # hypot: squares of what a tiny lr leaves would be 0 in float32
        lambda d, r, s: torch.where(s, torch.hypot(keep * r, take * d), r),
        *(d, memory.r, seen),
    )
    count = tree_map(lambda n, s: n + s, memory.seen, seen)
    ratio = tree_map(functools.partial(_ratio, state), m, r, count, seen)
    return Memory(m, r, count), ratio


def _clipped(d: Tensor, seen: Tensor, usual: Tensor, count: Tensor) -> Tensor:
    """d within what is usual, once something is; 0 where there is none to see."""
    most = torch.where(count > 0, OUTLIER * usual, d.abs())
    return torch.where(seen, torch.minimum(torch.maximum(d, -most), most), 0.0)


def _unbiased(average: Tensor, decay: Tensor, count: Tensor, power: float) -> Tensor:
    return average / (1 - decay ** count.clamp(min=1)) ** power


def _ratio(state: RelativeState, m: Tensor, r: Tensor, count: Tensor, seen: Tensor) -> Tensor:
    moves = seen & (r > 0)
    size = _unbiased(torch.where(moves, r, 1.0), state.decay_r, count, 0.5)
    ratio = _unbiased(m, state.decay_m, count, 1.0) / size
    return torch.where(moves, ratio.clamp(-1.0, 1.0), 0.0)


def _delta(
    state: RelativeState, size: float, a: Tensor, b: Tensor, count: Tensor, trust: Tensor
) -> Tensor:
    """``trust · step / (1 + n/halving) · agreed(a, b)``."""
    step = trust * state.step / (1 + (count - 1).clamp(min=0) / state.halving)
    return size * (step * _agreed(a, b))


def _agreed(a: Tensor, b: Tensor) -> Tensor:
    """The smaller of two ratios times its share of the larger, 0 where they differ in sign."""
    smaller = torch.where(a.abs() <= b.abs(), a, b)
    larger = torch.maximum(a.abs(), b.abs())
    share = smaller.abs() / torch.where(larger > 0, larger, 1.0)  # 1 where a is b
    return torch.where(a * b > 0, smaller * share, 0.0)


def _moved(line: Line, eta: Tensor, delta: Tensor) -> Tensor:
    """η after ``x ← x - delta``."""
    new = line.shifted(eta, delta).clamp(*line.ends)
    # A step of 0 leaves η as it is, even where clamp would round it or it started outside.
    return torch.where(delta == 0, eta, keep_finite(new, eta))


def _check_can_move(hparams: HParams, lines: Mapping[str, Line]) -> None:
    """Raise ValueError at a border of the line, where the slope is 0: η would stay there."""
    for name, value in hparams.items():
        borders, (low, high) = lines[name].borders, lines[name].ends
        for eta in map(float, tree_leaves(value)):
            if eta not in borders:
                continue
            if len(borders) == 1:
                raise ValueError(
                    f"{name} cannot move on a logarithmic scale from 0: start it at a small "
                    "positive number such as 1e-6, or leave it out of hparams"
                )
            inside = 0.99 * eta + 0.01 * (low + high - eta)
            raise ValueError(
                f"{name} = {eta:g} lies on the border of [{borders[0]:g}, {borders[1]:g}], where "
                f"it cannot move: start it at {inside:.2g}, or leave it out of hparams"
            )
