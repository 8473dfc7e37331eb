"""Interchangeable ways to get the gradient and Hessian-vector products, ``H v = d/dε ∇L(w + ε v)``.

Each is ``hvp(grad_fn, params, batch, v) -> (grads, Hv, aux)``: ``v`` and ``Hv`` have K columns on
dim 0. In the exact ones gradient and products share one evaluation, hence one dropout mask.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from .columns import first, over_columns, squares
from .compat import is_compiling
from .transforms import jvp, vjp, vmap
from .trees import norm, tree_leaves, tree_map
from .types import Batch, GradFn, Hvp, Params, Products

#: What torch says of a product of two precisions, one of them autocast's.
_MIXED = re.compile(
    "(BFloat16|Half).*(same dtype|be the same)|(same dtype|scalar type).*(BFloat16|Half)", re.S
)


def in_words(lacking: str, other: str = "") -> Callable[[Hvp], Hvp]:
    """Say what to do when a kernel lacks a derivative (in eager: dynamo raises its own error)."""

    instead = f"; for other losses try hvp={other}, exact as well" if other else ""

    def translated(hvp: Hvp) -> Hvp:
        @functools.wraps(hvp)
        def explained(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
            if is_compiling():
                return hvp(grad_fn, params, batch, v)
            try:
                return hvp(grad_fn, params, batch, v)
            except (NotImplementedError, RuntimeError) as error:
                if _MIXED.search(str(error)):
                    raise NotImplementedError(
                        "under autocast, torch's forward mode gives float32 tangents to what "
                        "BatchNorm returns in bfloat16, and the next layer refuses the mixture; "
                        f"take hvp=reverse_over_reverse, exact as well (torch: {error})"
                    ) from error
                if "ZeroTensors" in str(error):
                    raise NotImplementedError(
                        "torch's forward mode fails inside the mean of F.mse_loss "
                        "(pytorch#123996); write F.mse_loss(output, target, reduction='none')"
                        ".mean(), as functionalize does for you"
                    ) from error
                if "forward AD" not in str(error) and "derivative for" not in str(error):
                    raise
                raise NotImplementedError(
                    f"the loss uses an operation without {lacking}; for attention, run the model "
                    "under torch.nn.attention.sdpa_kernel(SDPBackend.MATH) or take "
                    f"hvp=finite_difference(), which needs gradients only{instead} (torch: {error})"
                ) from error

        return explained

    return translated


@in_words("forward-mode derivatives", other="reverse_over_reverse")
def forward_over_reverse(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
    """Exact: the jvp of the gradient along each column. About 2 gradients more a column.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """

    def along(column: Params) -> Any:
        return jvp(lambda p: grad_fn(p, batch), (params,), (column,), has_aux=True)

    grads, products, aux = over_columns(along, v)
    return first(grads), products, first(aux)


@in_words("a second backward pass", other="forward_over_reverse")
def reverse_over_reverse(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
    """Exact: the gradient is linearised once and its pullback taken along each column (H = Hᵀ).

    Needs no forward mode, but keeps the graph of the backward pass in memory.
    """
    grads, pullback, aux = vjp(lambda p: grad_fn(p, batch), params, has_aux=True)
    return grads, over_columns(lambda column: pullback(column)[0], v), aux


#: The default.
exact = forward_over_reverse


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


def no_curvature(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
    """``Hv = 0``: what HD does, and the yardstick for anything that costs more."""
    grads, aux = grad_fn(params, batch)
    return grads, tree_map(torch.zeros_like, v), aux


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
    grads, aux = vmap(lambda point: grad_fn(point, batch), randomness="same")(stacked)
    each = [tree_map(lambda leaf, i=i: leaf[i], grads) for i in range(len(points))]
    return each, first(aux)
