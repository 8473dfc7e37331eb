"""Judged at an average of the weights, an lr is not lowered for the noise of its last steps.

Right after a step a smaller lr looks better than it is, since it lowers at once the noise that a
batch puts on w: the short-horizon bias of hypergradients (Wu et al. 2018, arXiv 1803.02021). An
average of the last weights has less of that noise whatever lr is, so what is left in the loss there
is how far training has come (Polyak & Juditsky 1992).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from ..trees import HParams, Params, PyTree, tree_map
from .optimizer import Optimizer


class AveragedState(NamedTuple):
    inner: PyTree
    average: Params


def averaged(optimizer: Optimizer, window: float = 20.0) -> Optimizer:
    """Train as ``optimizer`` does and judge at ``a ← a + (w - a) / window``, which starts at w_0.

    The outer loss and its gradient are taken at a, the hypergradient is ``<∇E(a), Z^a>`` with the
    tangent of a that the recursion carries like that of any optimizer state. Training, and the
    batches' gradients, stay at w. One more copy of the parameters and one of their tangent.

    For networks with BatchNorm, where lr falls too early else (``benchmarks/LOG.md``, "Judged at an
    average"; in one run of 42 there, with AdamW, it rose too far). Take the outermost place,
    ``averaged(clip_grads(sgd(), 1.0))``, where ``averages`` looks for the model to use:
    ``write_back(model, averages(state))``.

    Args:
        window: of how many steps about, at least 1; 1 is w itself. A long one sees too late that
            lr has become too high: nothing is gained above 20 without BatchNorm.

    Raises:
        ValueError: for a window below 1; at ``init`` of a tuner whose outer loss is "next_batch",
            which knows the gradient at w only.

    >>> import torch
    >>> from adatune_func import sgd
    >>> optimizer = averaged(sgd(lr=1.0), window=4)
    >>> params = {"w": torch.ones(())}
    >>> optimizer.update(params, optimizer.init(params), params, optimizer.hparams)[1].average
    {'w': tensor(0.7500)}
    """
    if not window >= 1:
        raise ValueError(f"window must be at least 1 step, got {window}")

    def init(params: Params) -> AveragedState:
        return AveragedState(optimizer.init(params), tree_map(torch.clone, params))

    @functools.wraps(optimizer.update)
    def update(
        grads: Params, state: AveragedState, params: Params, hparams: HParams
    ) -> tuple[Params, AveragedState]:
        updates, inner = optimizer.update(grads, state.inner, params, hparams)
        average = tree_map(lambda a, w, d: a + (w + d - a) / window, state.average, params, updates)
        return updates, AveragedState(inner, average)

    return optimizer._replace(init=init, update=update, judged=_average, lag=window)


def _average(params: Params, opt_state: AveragedState) -> Params:
    return opt_state.average
