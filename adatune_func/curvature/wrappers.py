"""What wraps an ``hvp`` and is an ``hvp`` again: another batch for it, or another product from it.

A batch is any tree of tensors with the samples on dim 0.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from ..trees import Batch, GradFn, Hvp, Params, Products, check_bound, tree_leaves, tree_map
from .loss import Gradient
from .point import Point


def on_fraction(hvp: Hvp, fraction: float) -> Hvp:
    """The gradient on the whole batch, the products on its first ``fraction`` only.

    ``Hv = ∇²L(w; first rows) v``: an unbiased estimate when batches are shuffled and there is no
    BatchNorm, at ``fraction`` of the price. Training is untouched: gradient, loss and buffers are
    those of the whole batch. With BatchNorm the product sees the statistics of the few rows, with
    dropout a mask of its own.

    Raises:
        ValueError: for a fraction outside (0, 1], at once; at the first step when it leaves no row.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    if fraction == 1:
        return hvp

    share = Fraction(fraction).limit_denominator(1_000_000).as_integer_ratio()

    # A default, as dynamo takes these for constants. A number of the closure becomes symbolic when
    # another tuner has another one, and with it the size of what the products are computed on.
    def partial(
        grad_fn: GradFn, params: Params, batch: Batch, v: Params, share: tuple[int, int] = share
    ) -> Products:
        count = _samples(batch)
        rows = count * share[0] // share[1]
        if rows == 0:
            raise ValueError(f"a fraction {fraction} of {count} samples leaves none")
        grads, aux = grad_fn(params, batch)
        _, products, _ = hvp(grad_fn, params, _rows(batch, 0, rows), v)
        return grads, products, aux

    return partial


def accumulate(hvp: Hvp, parts: int) -> Hvp:
    """The batch in equal parts, one after another: the same numbers in less memory.

    ``g = Σ gᵢ / m`` and ``Hv = Σ Hᵢ v / m``, exact for a loss that is a mean over samples, with
    about 1/m of the activations in memory. BatchNorm sees each part's own statistics. Each part
    starts from the buffers of the step before and those that the last one leaves are kept, so that
    running statistics see 1/m of the batch.

    Raises:
        ValueError: at the first step when the batch does not split into equal parts.
    """
    if parts < 1:
        raise ValueError(f"parts must be 1 or more, got {parts}")

    def accumulated(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
        count = _samples(batch)
        if count % parts:
            raise ValueError(f"{count} samples do not split into {parts} equal parts")
        rows = count // parts
        total, buffers = None, None
        for i in range(parts):
            part = _rows(batch, i * rows, rows)
            grads, products, (loss, buffers) = hvp(grad_fn, params, part, v)
            new = (grads, products, loss)
            total = new if total is None else tree_map(torch.add, total, new)
        grads, products, loss = tree_map(lambda leaf: leaf / parts, total)
        return grads, products, (loss, buffers)

    return accumulated


def scale_products(hvp: Hvp, factor: float) -> Hvp:
    """``factor · Hv``: between no curvature, 0, and all of it, 1.

    Under :func:`on_fraction` a factor below 1 pays. A few samples have larger curvature than the
    batch along some direction, and a Z that grows there at each step soon is nothing but that. At
    ``factor = fraction`` the product is what those samples contribute to the batch's: of a positive
    semi-definite G it takes no more than G itself, so Z is bounded where it is with all of G.
    """

    def scaled(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
        if isinstance(v, Point):  # curvature is scaled, the mixed term is none: (factor Z, e)
            v = v._replace(params=tree_map(lambda leaf: factor * leaf, v.params))
            return hvp(grad_fn, params, batch, v)
        grads, products, aux = hvp(grad_fn, params, batch, v)
        return grads, tree_map(lambda leaf: factor * leaf, products), aux

    return scaled


def clip_products(hvp: Hvp, c: float) -> Hvp:
    """Clip each entry of ``Hv`` to ``[-c, c]``: an outlier's blow to Z is bounded.

    A mixed term of a :class:`Loss` is part of the product here and clipped with it.
    Not linear, so with ranks it clips the product of the whole batch: a collective of its own.

    Raises:
        ValueError: unless c > 0.
    """
    check_bound("c", c)

    def clipped(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
        grads, products, aux = hvp(grad_fn, params, batch, v)
        if isinstance(grad_fn, Gradient):
            products = grad_fn.mean(products)
        return grads, tree_map(lambda leaf: leaf.clamp(-c, c), products), aux

    return clipped


def _rows(batch: Batch, first: int, count: int) -> Batch:
    """Copies of some rows of each leaf.

    A view of the batch, in forward mode inside a vmapped and compiled step, is taken to live on
    torch's "meta" device and refused (torch 2.13, pytorch#185718).
    """
    return tree_map(lambda leaf: leaf[first : first + count].clone(), batch)


def _samples(batch: Batch) -> int:
    """How many samples the leaves of a batch hold on dim 0, which has to be the same for all."""
    sizes = {
        leaf.shape[0] if isinstance(leaf, Tensor) and leaf.ndim else 0
        for leaf in tree_leaves(batch)
    }
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "to take part of a batch, each of its leaves must be a tensor with the samples on "
            f"dim 0, and the same number of them; found sizes {sorted(sizes)}"
        )
    return sizes.pop()
