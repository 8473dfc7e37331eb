"""The parts of a hypergradient, each beside central differences of that part alone.

    product          H Z_k            beside  (g(w + ε Z_k) - g(w - ε Z_k)) / 2ε, and of what
                                              stands in the loss along (Z_k, e_k)
    optimizer        A Z_k + B_k      beside  the same of Phi, along (H Z_k, Z_k, e_k)
    outer gradient   <∇E, Z_k>        beside  (E(w + ε Z_k) - E(w - ε Z_k)) / 2ε
    buffers          0                beside  dE/dη where buffers follow η, less where they are held

Each takes what the part before it gave, right or wrong, so that one fault is named once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..curvature import Point, tuned_in
from ..recursion import discounted, phi
from ..trees import LossFn, Params, PyTree, dot, norm, tree_leaves, tree_map, tree_names
from .run import End, Moment, Run, difference, gradient, outer, reach, seed, shifted


class PartCheck(NamedTuple):
    """One part of a hypergradient beside central differences of that part.

    Attributes:
        part: "product", "optimizer", "outer gradient" or "buffers".
        relative_error: ``‖part - difference‖ / ‖difference‖`` at the step where it is worst; inf
            where the part is not finite; 0 where both are the same up to rounding.
        step: that step.
        leaf: of parameters or of the optimizer's state, the one that is furthest off.
    """

    part: str
    relative_error: float
    step: int
    leaf: str = ""


def part_checks(
    run: Run, k: int, moments: Sequence[Moment], end: End, slope: Tensor
) -> list[PartCheck]:
    """The parts of the k-th scalar's hypergradient; ``slope`` is dE/dη_k by differences.

    A part that is not finite ends the list: what follows is made of it.
    """
    made = [*(m.z for m in moments[1:]), end.z]
    products = PartCheck("product", 0.0, 0)
    updates = PartCheck("optimizer", 0.0, 0)
    for t, moment in enumerate(moments):
        products = _worse(products, _product(run, k, t, moment))
        if math.isinf(products.relative_error):
            return [products]
        updates = _worse(updates, _update(run, k, t, moment, column(made[t], k)))
        if math.isinf(updates.relative_error):
            return [products, updates]
    return [products, updates, _outer(run, k, end), _buffers(run, k, moments, end, slope)]


def column(tree: PyTree, k: int) -> PyTree:
    """Column k of a tree of columns."""
    return tree_map(lambda leaf: leaf[k], tree)


def along(
    run: Run, fn: Callable[[Params], PyTree], params: Params, direction: Params
) -> tuple[PyTree, float]:
    """Central difference of ``fn`` along a direction in parameters, and the ε it took."""
    eps = run.nudge * float((1 + norm(params)) / norm(direction))
    ahead, behind = (
        fn(tree_map(lambda w, d, s=s: w + s * d, params, direction)) for s in (eps, -eps)
    )
    return tree_map(lambda a, b: (a - b) / (2 * eps), ahead, behind), eps


def at_point(run: Run, loss_fn: LossFn, k: int, params: Params, z: Params) -> tuple[Point, Point]:
    """``(w, η)`` of a loss, and the direction ``(z, e_k)`` in which its k-th scalar moves it."""
    unit = shifted(tree_map(torch.zeros_like, run.hparams), k, 1.0)
    return Point(params, tuned_in(loss_fn, run.hparams)), Point(z, tuned_in(loss_fn, unit))


def _product(run: Run, k: int, t: int, moment: Moment) -> PartCheck:
    dg = column(moment.dg, k)
    z = discounted(torch.tensor(run.mu), column(moment.z.params, k))
    point, direction = at_point(run, run.loss_fn, k, moment.u.params, z)
    if float(norm(direction)) == 0:
        return _check("product", t, dg, tree_map(torch.zeros_like, dg), 0.0)

    def gradient_at(there: Point) -> Params:
        hparams = {**run.hparams, **there.hparams}
        return gradient(run, t, there.params, moment.buffers, hparams)[0]

    slope, eps = along(run, gradient_at, point, direction)
    return _check("product", t, dg, slope, run.unit * float(norm(moment.grads)) / eps)


def _update(run: Run, k: int, t: int, moment: Moment, made: PyTree) -> PartCheck:
    mu = torch.tensor(run.mu, dtype=torch.float64)
    primal, delta = (moment.grads, moment.u), reach(run, k)
    tangent = (column(moment.dg, k), discounted(mu, column(moment.z, k)))

    def moved(shift: float) -> PyTree:
        grads, u = tree_map(lambda x, d: x + shift * d, primal, tangent)
        seed(t)
        return phi(run.optimizer, grads, u, shifted(run.hparams, k, shift))

    ahead, behind = moved(delta), moved(-delta)
    slope = tree_map(lambda a, b: (a - b) / (2 * delta), ahead, behind)
    return _check("optimizer", t, made, slope, run.unit * float(norm(ahead)) / delta)


def _outer(run: Run, k: int, end: End) -> PartCheck:
    judged, count = run.optimizer.judged, len(run.batches)
    params, z = judged(*end.u), judged(*column(end.z, k))
    point, direction = at_point(run, run.outer_loss_fn, k, params, z)
    if float(norm(direction)) == 0:
        return PartCheck("outer gradient", 0.0, count)

    def value_at(there: Point) -> Tensor:
        return outer(run, there.params, end.buffers, {**run.hparams, **there.hparams})[2]

    slope, eps = along(run, value_at, point, direction)
    h = dot(Point(end.outer_grads, end.direct), direction)
    return _check("outer gradient", count, h, slope, run.unit * float(end.outer_loss.abs()) / eps)


def _buffers(run: Run, k: int, moments: Sequence[Moment], end: End, slope: Tensor) -> PartCheck:
    count = len(run.batches)
    if not any(leaf.is_floating_point() for leaf in tree_leaves(end.buffers)):
        return PartCheck("buffers", 0.0, count)
    held = difference(run, k, [*(m.buffers for m in moments), end.buffers])[1]
    noise = run.unit * float(end.outer_loss.abs()) / reach(run, k)
    return _check("buffers", count, held, slope, noise)


def _check(part: str, step: int, tangent: PyTree, slope: PyTree, noise: float) -> PartCheck:
    """``noise``: what one rounding of the values makes of the difference."""
    gaps = [
        float(norm(a - b)) for a, b in zip(tree_leaves(tangent), tree_leaves(slope), strict=True)
    ]
    worst = max(range(len(gaps)), key=lambda i: _size(gaps[i]))
    leaf = tree_names(tangent, "params" if part == "product" else "")[worst]
    gap, scale = math.hypot(*map(_size, gaps)), float(norm(slope))
    if gap <= 100 * noise:
        return PartCheck(part, 0.0, step, leaf)
    finite = math.isfinite(gap) and math.isfinite(scale) and scale > 0
    return PartCheck(part, gap / scale if finite else math.inf, step, leaf)


def _size(gap: float) -> float:
    return math.inf if math.isnan(gap) else gap


def _worse(one: PartCheck, two: PartCheck) -> PartCheck:
    return two if two.relative_error > one.relative_error else one
