"""Steps that would break a run are not taken: null steps, and a learning rate lowered for cause.

A step proposes a candidate ``u_{t+1}`` and the guard rules on it, without a branch:

    faulty    a number of the loss and gradient at w_t is not finite, or one of the batches is not
              and spoils the candidate: the data's fault; the step is skipped, nothing else changes.
              A mask of -inf or a target marked NaN that the loss leaves out spoils nothing
    blamed    a number of the candidate or of its outer loss and gradient is not finite, the step is
              too long, or the outer loss E explodes: the state stays and lr is lowered
    accepted  anything else

Only a tuned lr can be lowered: where it is not, what is not finite is refused and nothing else.
Each limit says by how much lr exceeded it:

    length    ‖w_{t+1} - w_t‖ ≤ longest · (1 + ‖w_t‖), where the rule says what is longest:
              0.03 for ``relative``, any length for ``additive``. A network that loses its weights
              within some thirty steps dies while its loss still falls; sound training stays below
              that but for its first steps (benchmarks/LOG.md). Steps are nearly proportional to lr,
              so one refusal brings a start that is decades too high to the scale of the weights.
    rise      E ≤ max(center, L_t(w_t)) + 2·max(spread, |center| / 10), where center is a running
              mean of the outer losses that were accepted and spread a decaying maximum of how far
              they rose above it. Where the training loss is as high it is no fault of the step; and
              each refusal doubles spread, so that no run stalls: a rise of 2ⁿ times the limit is
              refused n times. Until a loss was accepted center is what E was before the step, to
              first order: E - <∇E, w_{t+1} - w_t>. Judged where the outer loss is the candidate's
              own: with "next_batch" one would have to carry a last good copy of everything to go
              back to, and a finite step to where the loss is not finite cannot be undone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .trees import HParams, Params, norm, scalar_like, tree_map, where

REACH = 2.0
RELAX = 2.0  # a loss that stays ten times as high as normal is taken for normal after six refusals
LOWER = (0.1, 0.9)  # a false alarm costs little, and a rise says little of how far to go
FLOOR = 0.1  # a loss a fifth above what is normal is never refused
FOLLOW = 0.1  # weight of a new loss in center: it follows training within some ten steps
FADE = 0.99  # spread forgets a wild loss within some hundred steps


class GuardState(NamedTuple):
    center: Tensor
    spread: Tensor
    started: Tensor  # 0 until center and spread hold a loss, then 1


class Losses(NamedTuple):
    """What the guard looks at, 0-d each."""

    training: Tensor  # L_t(w_t)
    outer: Tensor  # E(w_{t+1})
    before: Tensor  # E(w_t) to first order


class Verdict(NamedTuple):
    accepted: Tensor  # bool, 0-d
    blamed: Tensor  # bool, 0-d; neither: the batches were at fault
    factor: Tensor  # what to multiply lr by where the candidate is to blame


def init(params: Params) -> GuardState:
    """Nothing is known before the first loss."""
    return GuardState(*(scalar_like(params, 0.0) for _ in range(3)))


def judge(faulty: Tensor, finite: Tensor, share: Tensor) -> Verdict:
    """Rule on a candidate.

    Args:
        faulty: whether the batches are to blame for whatever is wrong.
        finite: whether all numbers of the candidate and of its outer loss and gradient are finite.
        share: by what lr is to be multiplied to keep all limits, 1 where they are kept.
    """
    sound = finite & (share >= 1)
    return Verdict(~faulty & sound, ~faulty & ~sound, torch.where(finite, share, LOWER[0]))


def share_of_length(longest: float, before: Params, after: Params) -> Tensor:
    """``longest / 2 length`` of a step that is too long, else 1: at the edge networks die, too."""
    length = norm(tree_map(torch.sub, after, before)) / (1 + norm(before))
    # At most four decades at once: an overflow to inf says nothing of how far to go.
    return torch.where(length > longest, (0.5 * longest / length).clamp(min=1e-4), 1.0)


def share_of_rise(state: GuardState, losses: Losses) -> Tensor:
    """``limit / rise``, between 0.1 and 0.9, of an outer loss that explodes, else 1."""
    rise, most = _rise(state, losses)
    exploded = rise > most
    return torch.where(exploded, (most / torch.where(exploded, rise, 1.0)).clamp(*LOWER), 1.0)


def learned(state: GuardState, verdict: Verdict, losses: Losses) -> GuardState:
    """What is normal, now that the candidate has been seen."""
    center, spread = _normal(state, losses)
    rise, most = _rise(state, losses)
    followed = GuardState(
        center + FOLLOW * (losses.outer - center),
        torch.maximum(losses.outer - center, FADE * state.spread),
        torch.ones_like(state.started),
    )
    # what is not finite or only too long says nothing of what losses are normal
    # (not a choice between two numbers: torch 2.0 maps that over states with a warning)
    relaxed = state._replace(spread=torch.where(rise > most, RELAX * spread, spread))
    state = where(verdict.blamed, relaxed, state)
    return where(verdict.accepted, followed, state)


def _normal(state: GuardState, losses: Losses) -> tuple[Tensor, Tensor]:
    # A step that explodes makes ``before`` too low, never too high where E is convex.
    known = losses.before.isfinite() & (losses.before > losses.training)
    first = torch.where(known, losses.before, losses.training)
    center = torch.where(state.started > 0, state.center, first)
    return center, torch.maximum(state.spread, FLOOR * center.abs())


def _rise(state: GuardState, losses: Losses) -> tuple[Tensor, Tensor]:
    """How far the outer loss rose over what it was before the step, and how far it may."""
    center, spread = _normal(state, losses)
    return losses.outer - torch.maximum(center, losses.training), REACH * spread


def lowered(hparams: HParams, factor: Tensor, lowest: float) -> HParams:
    """Each lr times ``factor``, but not below its domain nor to 0: nothing could raise it."""
    floor = max(lowest, torch.finfo(torch.float32).tiny)
    lr = tree_map(lambda lr: torch.minimum(lr, (factor * lr).clamp(min=floor)), hparams["lr"])
    return {**hparams, "lr": lr}
