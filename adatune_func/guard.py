"""Steps that would break a run are not taken: null steps, and a learning rate lowered for cause.

A step proposes a candidate ``u_{t+1}`` and the guard rules on it, without a branch:

    faulty    a number of the batches, or of the loss and gradient at w_t, is not finite:
              the data's fault; the step is skipped, nothing else changes
    blamed    a number of the candidate or of its outer loss and gradient is not finite, or its
              outer loss E explodes: the state stays as it was and lr is lowered
    accepted  anything else

Only a tuned lr can be lowered: where lr is not tuned, and where the outer loss is not the
candidate's own ("next_batch" would have to carry a last good copy of everything to go back to), a
candidate is refused for numbers that are not finite and for nothing else.

Exploding is relative: ``E > max(center, L_t(w_t)) + 2·max(spread, |center| / 10)``, where center is
a running mean of the outer losses that were accepted and spread a decaying maximum of how far they
rose above it. A loss that was as high before the step is no fault of the step; and each refusal
widens spread, so that a finite loss is refused a few times at most and no run stalls. Before the
first step center is L_0(w_0), so E should be in the units of the training loss.

How far lr falls is in proportion: by the ratio of the rise that would have been accepted to the
one there was, between 0.1 and 0.9. A false alarm costs little that way, and a start 4 decades too
high is left within some ten steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .discount import scalar_like
from .trees import tree_map
from .types import HParams, Params, PyTree

REACH = 2.0
RELAX = 1.2
LOWER = (0.1, 0.9)
FLOOR = 0.1  # a loss a fifth above what is normal is never refused
FOLLOW = 0.1  # weight of a new loss in center: it follows training within some ten steps
FADE = 0.99  # spread forgets a wild loss within some hundred steps


class GuardState(NamedTuple):
    center: Tensor
    spread: Tensor
    started: Tensor  # 0 until center and spread hold a loss, then 1


class Verdict(NamedTuple):
    accepted: Tensor  # bool, 0-d
    blamed: Tensor  # bool, 0-d; neither: the batches were at fault
    factor: Tensor  # what to multiply lr by where the candidate is to blame


def init(params: Params) -> GuardState:
    """Nothing is known before the first loss."""
    return GuardState(*(scalar_like(params, 0.0) for _ in range(3)))


def judge(
    state: GuardState, loss: Tensor, val_loss: Tensor, faulty: Tensor, finite: Tensor
) -> tuple[Verdict, GuardState]:
    """Rule on a candidate by its own outer loss, and learn from it what is normal.

    Args:
        state: what was normal so far.
        loss: the training loss before the step.
        val_loss: the outer loss of the candidate.
        faulty: whether the batches are to blame for whatever is wrong.
        finite: whether all numbers of the candidate and of its outer gradient are finite.
    """
    center = torch.where(state.started > 0, state.center, loss)
    spread = torch.maximum(state.spread, FLOOR * center.abs())
    finite = finite & val_loss.isfinite()
    base = torch.maximum(center, loss)
    rise, most = val_loss - base, REACH * spread
    sound = finite & ~(rise > most)
    # 0/0 cannot be: what is blamed and finite rose by more than most >= 0
    share = torch.where(finite & ~sound, most / torch.where(rise > 0, rise, 1.0), 0.0)
    verdict = Verdict(~faulty & sound, ~faulty & ~sound, share.clamp(*LOWER))
    learned = GuardState(
        center + FOLLOW * (val_loss - center),
        torch.maximum(val_loss - center, FADE * state.spread),
        torch.ones_like(state.started),
    )
    relaxed = GuardState(center, RELAX * spread, torch.ones_like(state.started))
    state = chosen(verdict.blamed, relaxed, state)
    return verdict, chosen(verdict.accepted, learned, state)


def judge_finite(state: GuardState, faulty: Tensor, finite: Tensor) -> tuple[Verdict, GuardState]:
    """:func:`judge` for a candidate whose outer loss is not known, or that no lower lr can help."""
    factor = torch.full_like(state.center, LOWER[0])
    return Verdict(~faulty & finite, ~faulty & ~finite, factor), state


def lowered(hparams: HParams, factor: Tensor) -> HParams:
    """``hparams`` with each lr times ``factor``, but not to 0: nothing could raise it."""
    if "lr" not in hparams:
        return hparams
    floor = torch.finfo(torch.float32).tiny
    lr = tree_map(lambda lr: torch.minimum(lr, (factor * lr).clamp(min=floor)), hparams["lr"])
    return {**hparams, "lr": lr}


def chosen(condition: Tensor, yes: PyTree, no: PyTree) -> PyTree:
    """``yes`` where the 0-d ``condition`` holds, else ``no``, leaf by leaf."""
    return tree_map(lambda a, b: torch.where(condition, a, b), yes, no)
