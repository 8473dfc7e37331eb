"""Hessian-vector products by differences of gradients: two or three gradients a column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from ..trees import (
    Batch,
    GradFn,
    Hvp,
    Params,
    Products,
    first,
    norm,
    squares,
    tree_leaves,
    tree_map,
    vmap,
)


def finite_difference(
    step: float | None = None,
    central: bool = False,
    randomness: Literal["error", "same"] = "error",
) -> Hvp:
    """Two gradients instead of a product: ``Hv ≈ (∇L(w + εv) - ∇L(w)) / ε``, O(ε) off.

    ``central`` takes ``(∇L(w + εv) - ∇L(w - εv)) / 2ε`` instead, O(ε²) off, for one gradient more.
    The step is relative, ``ε = step · (1 + ‖w‖) / ‖v‖``; by default ``√u / 4``, central ``∛u / 10``
    with u the machine epsilon of the parameters' dtype. The roots balance truncation and rounding
    (Nocedal & Wright 2006, section 8.1); the factors are measured: along Z the gradient changes on
    a scale of a tenth to a quarter of ‖w‖.

    For smooth networks and losses without second derivatives, such as fused attention: across the
    kinks of ReLU and max-pooling it measures another function, at any step size.

    Args:
        randomness: "error", or "same" for a loss with dropout: all gradients under one vmap and so
            with one mask. Convolutions become grouped ones, and BatchNorm in train mode, whose
            buffers have one copy only, raises.

    Raises:
        RuntimeError: at the first step, when the loss draws random numbers (dropout) and
            ``randomness`` is "error": the gradients would see different masks.
    """
    if randomness not in ("error", "same"):
        raise ValueError(f'randomness must be "error" or "same", got {randomness!r}')
    gradients = {"error": _one_by_one, "same": _together}[randomness]

    def hvp(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
        scale = _relative_step(params, step, central) * (1 + norm(params))
        lengths = torch.sqrt(squares(v))
        eps = scale / torch.where(lengths > 0, lengths, 1.0)
        signs = (1, -1) if central else (1,)
        moved = [
            tree_map(lambda w, d, k=k, s=s: w + s * eps[k] * d[k], params, v)
            for k in range(eps.shape[0])
            for s in signs
        ]
        (grads, *around), aux = gradients(grad_fn, [params, *moved], batch)
        if central:
            pairs = zip(around[::2], around[1::2], eps / 0.5, strict=True)
        else:
            pairs = ((ahead, grads, e) for ahead, e in zip(around, eps, strict=True))
        products = [tree_map(lambda a, b, e=e: (a - b) / e, a, b) for a, b, e in pairs]
        return grads, tree_map(lambda *leaves: torch.stack(leaves), *products), aux

    return hvp


def _relative_step(params: Params, step: float | None, central: bool) -> float:
    if step is not None:
        return step
    unit = torch.finfo(tree_leaves(params)[0].dtype).eps
    return 0.1 * unit ** (1 / 3) if central else 0.25 * math.sqrt(unit)


def _one_by_one(
    grad_fn: GradFn, points: Sequence[Params], batch: Batch
) -> tuple[list[Params], Any]:
    """The gradient at each point, and aux at the first. Raises where random numbers are drawn.

    vmap refuses them on demand. Nothing inside depends on what is mapped over, so it costs nothing.
    """
    probe = tree_leaves(points[0])[0].new_zeros(1)

    def guarded(point: Params) -> tuple[Params, Any]:
        return first(vmap(lambda _: grad_fn(point, batch), randomness="error")(probe))

    try:
        results = [guarded(point) for point in points]
    except RuntimeError as error:
        if "randomness" not in str(error):
            raise
        raise RuntimeError(
            "finite_difference needs a loss without random numbers, since its gradients would see "
            'different dropout masks; take finite_difference(randomness="same"), an exact hvp, or '
            "switch dropout off"
        ) from error
    return [grads for grads, _ in results], results[0][1]


def _together(grad_fn: GradFn, points: Sequence[Params], batch: Batch) -> tuple[list[Params], Any]:
    """The same under one vmap, which draws random numbers once for all points."""
    stacked = tree_map(lambda *leaves: torch.stack(leaves), *points)
    try:
        grads, aux = vmap(lambda point: grad_fn(point, batch), randomness="same")(stacked)
    except RuntimeError as error:
        if "Batch norm" not in str(error):
            raise
        raise RuntimeError(
            'finite_difference(randomness="same") cannot run BatchNorm in train mode, whose '
            "running statistics have one copy only; take an exact hvp, which shares its dropout "
            "mask by itself, or BatchNorm with track_running_stats=False"
        ) from error
    each = [tree_map(lambda leaf, i=i: leaf[i], grads) for i in range(len(points))]
    return each, first(aux)
