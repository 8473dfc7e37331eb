"""Signal or noise: how much of a hypergradient is the same from step to step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..trees import HParams, tree_map

DECAY = 0.99  # a window of about 100 steps


class SnrState(NamedTuple):
    mean: HParams  # running sum of cosines, weighted
    square: HParams
    weight: Tensor  # of all the weights, so that mean / weight is unbiased


def init(hparams: HParams, like: Tensor) -> SnrState:
    """No cosine seen yet; ``like`` gives dtype and device."""
    zeros = tree_map(torch.zeros_like, hparams)
    return SnrState(zeros, tree_map(torch.zeros_like, hparams), torch.zeros_like(like))


def update(state: SnrState, cosine: HParams) -> tuple[HParams, SnrState]:
    """``|mean| / standard deviation`` of the cosine over about 100 steps, and the next state.

    The cosine of ∇E and Z is the hypergradient free of the scales of both, which change while
    training goes on. Pure noise gives about 0.07, and at most 1e3 is returned: a signal without
    noise, such as the first step's. A cosine that overflowed counts as 0.
    """
    cosine = tree_map(lambda c: torch.where(c.isfinite(), c, 0.0).clamp(-1.0, 1.0), cosine)
    mean = tree_map(lambda m, c: DECAY * m + (1 - DECAY) * c, state.mean, cosine)
    square = tree_map(lambda s, c: DECAY * s + (1 - DECAY) * c * c, state.square, cosine)
    weight = DECAY * state.weight + (1 - DECAY)
    ratio = tree_map(lambda m, s: _ratio(m / weight, s / weight), mean, square)
    return ratio, SnrState(mean, square, weight)


def _ratio(mean: Tensor, square: Tensor) -> Tensor:
    variance = (square - mean * mean).clamp(min=1e-6 * square)
    safe = torch.where(square > 0, variance, 1.0)
    return torch.where(square > 0, mean.abs() * torch.rsqrt(safe), 0.0)
