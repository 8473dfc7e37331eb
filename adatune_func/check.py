"""Is the hypergradient right for this model and optimizer? Ask central differences."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .curvature import Gradient, exact
from .optimizers import Optimizer, checked_hparams
from .recursion import Inner, advance, hypergradient, phi
from .rules import bounds
from .trees import (
    Batch,
    Buffers,
    HParams,
    Hvp,
    LossFn,
    Params,
    PyTree,
    checked_params,
    checked_state,
    columns,
    dot,
    is_a,
    norm,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_paths,
    tree_unflatten,
)

_STEP = 1e-4  # relative: truncation is 1e-8 of the third derivative, rounding far below


class TangentCheck(NamedTuple):
    """One tuned scalar's hypergradient beside central differences of the run.

    Attributes:
        hypergrad: by the recursion.
        difference: by central differences.
        relative_error: ``|hypergrad - difference| / |difference|``; 0 where both are the same,
            inf where only the difference is 0.
        cosine: of the parameters' tangent Z and its central difference; 1 is right.
    """

    hypergrad: float
    difference: float
    relative_error: float
    cosine: float


def check_tangents(
    loss_fn: LossFn,
    optimizer: Optimizer,
    params: Params,
    hparams: HParams,
    batches: Sequence[tuple[Batch, Batch]],
    *,
    buffers: Buffers | None = None,
    hvp: Hvp = exact,
    mu: float = 1.0,
    val_loss_fn: LossFn | None = None,
) -> dict[str, TangentCheck]:
    """Compare the hypergradient with central differences of the run, in float64, by hyperparameter.

    Trains one step on each ``batch`` of ``(batch, val_batch)`` with hyperparameters held
    constant; the outer loss is that of the last ``val_batch``. With mu < 1 each step's
    hyperparameters are perturbed alone and the differences summed with the discount, ``h = Σ_s
    mu^(T-1-s) dE/dη_s``: 2KT runs of T steps for K scalars, so take few. Random numbers
    (dropout) are the same in every run.

    An exact hvp and a correct, smooth optimizer give a relative error of about 1e-6 and a
    cosine of 1.

    Args:
        params, hparams, batches, buffers: as a tuner takes them, in any precision.
        hvp: the strategy under test; mu: the discount, a float in [0, 1].
        val_loss_fn: the outer loss; by default ``loss_fn``.

    Returns:
        One :class:`TangentCheck` a tuned scalar, by its name (``lr``, or ``lr.prefix``).

    Raises:
        ValueError, TypeError: as a tuner's ``init`` does; ValueError when ``batches`` is empty.

    >>> import torch
    >>> loss_fn = lambda params, buffers, batch: ((params["w"] * batch).cos().sum(), buffers)
    >>> from adatune_func import sgd
    >>> report = check_tangents(
    ...     loss_fn,
    ...     sgd(momentum=0.9),
    ...     {"w": torch.ones(3)},
    ...     {"lr": 0.1},
    ...     [(torch.arange(3.0), torch.ones(3))] * 4,
    ... )
    >>> report["lr"].relative_error < 1e-6
    True
    """
    if not batches:
        raise ValueError("check_tangents needs at least one (batch, val_batch)")
    params = _double(checked_params(params))
    run = _Run(
        loss_fn=loss_fn,
        outer_loss_fn=val_loss_fn or loss_fn,
        optimizer=optimizer,
        start=Inner(params, checked_state(optimizer.init(params))),
        hparams=checked_hparams(hparams, optimizer, params),
        buffers=_double(buffers or {}),
        batches=_double(list(batches)),
    )
    z, h = _tangent(run, hvp, mu)
    names = [".".join(map(str, path)) for path in tree_paths(run.hparams)]
    return {name: _compare(k, run, mu, z, h[k]) for k, name in enumerate(names)}


class _Run(NamedTuple):
    loss_fn: LossFn
    outer_loss_fn: LossFn
    optimizer: Optimizer
    start: Inner
    hparams: HParams
    buffers: Buffers
    batches: list[tuple[Batch, Batch]]


def _tangent(run: _Run, hvp: Hvp, mu: float) -> tuple[Inner, list[Tensor]]:
    """Z at the end of the run, and h, by the recursion."""
    u, buffers = run.start, run.buffers
    z = columns.zeros(u, len(tree_leaves(run.hparams)))
    discount = torch.tensor(mu, dtype=torch.float64)
    with _repeatable():
        for batch, _ in run.batches:
            grads, hz, (_, buffers) = hvp(Gradient(run.loss_fn, buffers), u.params, batch, z.params)
            u, z = advance(run.optimizer, grads, hz, u, z, run.hparams, discount)
        judged = run.optimizer.judged
        outer_grads, _ = Gradient(run.outer_loss_fn, buffers)(judged(*u), run.batches[-1][1])
    return z, tree_leaves(hypergradient(outer_grads, judged(*z), run.hparams).hypergrads)


def _trained(run: _Run, hparams_at: Callable[[int], HParams]) -> tuple[Params, Tensor]:
    """``(w_T, E(w_T))`` of plain training, with the hyperparameters of each step."""
    u, buffers = run.start, run.buffers
    with _repeatable():
        for t, (batch, _) in enumerate(run.batches):
            grads, (_, buffers) = Gradient(run.loss_fn, buffers)(u.params, batch)
            u = phi(run.optimizer, grads, u, hparams_at(t))
        outer_loss, _ = run.outer_loss_fn(run.optimizer.judged(*u), buffers, run.batches[-1][1])
        return u.params, outer_loss


def _difference(run: _Run, k: int, steps: Sequence[int]) -> tuple[Params, Tensor]:
    """Central difference of ``(w_T, E)`` for the k-th scalar, moved at the given steps."""
    etas, treedef = tree_flatten(run.hparams)
    delta = _STEP * _room(run.hparams)[k] or 1e-6

    def end(shift: float) -> tuple[Params, Tensor]:
        moved = tree_unflatten(treedef, [e + shift * (i == k) for i, e in enumerate(etas)])
        return _trained(run, lambda t: moved if t in steps else run.hparams)

    return tree_map(lambda ahead, behind: (ahead - behind) / (2 * delta), end(delta), end(-delta))


def _room(hparams: HParams) -> list[float]:
    """Distance of each scalar from the end of its domain: beta2 acts by 1 - beta2."""
    low, high = map(tree_leaves, bounds(hparams))
    etas = [float(eta) for eta in tree_leaves(hparams)]
    return [min(e - lo, hi - e) for e, lo, hi in zip(etas, low, high, strict=True)]


def _compare(k: int, run: _Run, mu: float, z: Inner, h: Tensor) -> TangentCheck:
    count = len(run.batches)
    if mu == 1.0:
        weights, parts = [1.0], [_difference(run, k, range(count))]
    else:
        weights = [mu ** (count - 1 - s) for s in range(count)]
        parts = [_difference(run, k, [s]) for s in range(count)]
    tangent, slope = tree_map(
        lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *parts
    )
    column = tree_map(lambda leaf: leaf[k], z.params)
    scale = norm(tangent) * norm(column)
    error = float((h - slope).abs())
    return TangentCheck(
        hypergrad=float(h),
        difference=float(slope),
        relative_error=0.0 if error == 0 else error / abs(float(slope)) if slope else math.inf,
        cosine=float(dot(tangent, column) / scale) if float(scale) > 0 else float(error == 0.0),
    )


@contextlib.contextmanager
def _repeatable() -> Generator[None]:
    """The same random numbers in every run, and the caller's generator left alone."""
    random: Any = torch.random  # torch does not say what these two take
    with random.fork_rng(), torch.no_grad():
        random.manual_seed(0)
        yield


def _double(tree: PyTree) -> PyTree:
    """Floating-point tensors of a tree in float64; the rest as it is."""
    return tree_map(
        lambda leaf: leaf.double() if is_a(leaf, Tensor) and leaf.is_floating_point() else leaf,
        tree,
    )
