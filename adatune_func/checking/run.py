"""Whole runs: their tangent by the recursion, their derivative by central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..curvature import (
    Gradient,
    at_values,
    no_curvature,
    outer_gradient,
    own_domains,
    products_along,
)
from ..optimizers import Optimizer
from ..recursion import Inner, advance, discounted, hypergradient, phi
from ..rules import bounds
from ..trees import (
    Batch,
    Buffers,
    HParams,
    Hvp,
    LossFn,
    Params,
    columns,
    norm,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_unflatten,
)


class Run(NamedTuple):
    """What is trained, and how far differences move it.

    Every evaluation of step t starts from seed t and goes through the hvp or :class:`Gradient`:
    a loss draws another dropout mask under ``grad`` than alone, where its input is transposed.
    """

    loss_fn: LossFn
    outer_loss_fn: LossFn
    optimizer: Optimizer
    hvp: Hvp
    mu: float
    start: Inner
    hparams: HParams
    buffers: Buffers
    batches: list[tuple[Batch, Batch]]
    gradients: Hvp  # what gives the gradient alone
    unit: float  # machine epsilon of the lowest precision that the run computes in

    @property
    def step(self) -> float:
        """Relative, of differences in hyperparameters; leans to rounding's side."""
        return self.unit**0.25

    @property
    def nudge(self) -> float:
        """Relative, of differences in parameters: short, so that few kinks are crossed."""
        return 0.1 * self.unit ** (1 / 3)


class Moment(NamedTuple):
    """One step of the run: where it starts, and what the hvp says there."""

    u: Inner
    z: Inner
    buffers: Buffers
    grads: Params
    dg: Params  # along mu Z, and for what stands in the loss along (mu Z_k, e_k)


class End(NamedTuple):
    """Where the run ends, and how it is judged there."""

    u: Inner
    z: Inner
    buffers: Buffers
    outer_grads: Params
    direct: HParams  # ∂E/∂η where the outer loss has hyperparameters itself
    outer_loss: Tensor
    hypergrads: list[Tensor]


def seed(number: int) -> None:
    """Where random numbers of the next evaluation start, on every device."""
    random: Any = torch.random  # torch does not say what this takes
    random.manual_seed(number)


def products(
    run: Run, t: int, params: Params, buffers: Buffers, z: Params
) -> tuple[Params, Params, Buffers]:
    """``(g, dg, buffers)`` of step t by the hvp under test."""
    seed(t)
    batch = run.batches[t][0]
    grads, dg, (_, buffers) = products_along(
        run.hvp, run.loss_fn, buffers, params, batch, z, run.hparams
    )
    return grads, dg, buffers


def gradient(
    run: Run, t: int, params: Params, buffers: Buffers, hparams: HParams | None = None
) -> tuple[Params, Buffers]:
    """The gradient of step t as the hvp takes it, its random numbers the same."""
    seed(t)
    grad_fn = Gradient(at_values(run.loss_fn, hparams or run.hparams), buffers)
    still = columns.zeros(params, 1)
    grads, _, (_, buffers) = run.gradients(grad_fn, params, run.batches[t][0], still)
    return grads, buffers


def with_cheap_gradients(run: Run) -> Run:
    """``run`` whose gradients come without products, where these are the same as the hvp's.

    They are not where the hvp draws other random numbers, as ``accumulate`` does.
    """
    cheap = run._replace(gradients=no_curvature)
    one, two = (gradient(r, 0, run.start.params, run.buffers)[0] for r in (run, cheap))
    gap = norm(tree_map(torch.sub, one, two))
    return cheap if float(gap) <= 1e3 * run.unit * float(norm(one)) else run


def loss(run: Run, t: int, params: Params, buffers: Buffers) -> Tensor:
    """The training loss of step t, its random numbers those of the gradient."""
    seed(t)
    loss_fn = at_values(run.loss_fn, run.hparams)
    return Gradient(loss_fn, buffers)(params, run.batches[t][0])[1][0]


def outer(
    run: Run, params: Params, buffers: Buffers, hparams: HParams | None = None
) -> tuple[Params, HParams, Tensor]:
    """``(∇E, ∂E/∂η, E)`` at the end of the run."""
    seed(len(run.batches))
    val_batch = run.batches[-1][1]
    return outer_gradient(run.outer_loss_fn, buffers, params, val_batch, hparams or run.hparams)


def trace(run: Run) -> tuple[list[Moment], End]:
    """The run with its tangent Z, as a tuner makes it; Z is never reset here."""
    u, buffers, moments = run.start, run.buffers, list[Moment]()
    z = columns.zeros(u, len(tree_leaves(run.hparams)))
    mu = torch.tensor(run.mu, dtype=torch.float64)
    for t in range(len(run.batches)):
        known = discounted(mu, z)
        grads, dg, moved = products(run, t, u.params, buffers, known.params)
        moments.append(Moment(u, z, buffers, grads, dg))
        buffers = moved
        u, z = advance(run.optimizer, grads, dg, u, known, run.hparams)
    judged = run.optimizer.judged
    outer_grads, direct, value = outer(run, judged(*u), buffers)
    signal = hypergradient(outer_grads, judged(*z), run.hparams, direct)
    return moments, End(u, z, buffers, outer_grads, direct, value, tree_leaves(signal.hypergrads))


def trained(
    run: Run, hparams_at: Callable[[int], HParams], held: Sequence[Buffers] | None = None
) -> tuple[Params, Tensor]:
    """``(w_T, E(w_T))`` of plain training with the hyperparameters of each step.

    ``held``: the buffers of each step and of the end, in place of those the run makes.
    """
    u, buffers = run.start, run.buffers
    for t in range(len(run.batches)):
        hparams = hparams_at(t)
        grads, buffers = gradient(run, t, u.params, held[t] if held else buffers, hparams)
        u = phi(run.optimizer, grads, u, hparams)
    last = hparams_at(len(run.batches) - 1)
    value = outer(run, run.optimizer.judged(*u), held[-1] if held else buffers, last)[2]
    return u.params, value


def difference(run: Run, k: int, held: Sequence[Buffers] | None = None) -> tuple[Params, Tensor]:
    """Central difference of ``(w_T, E)`` for the k-th scalar; with mu < 1 step by step,

    ``Σ_s mu^(T-1-s) d(w_T, E)/dη_s``.
    """
    count, delta = len(run.batches), reach(run, k)

    def slope(steps: Sequence[int]) -> tuple[Params, Tensor]:
        def end(shift: float) -> tuple[Params, Tensor]:
            there = shifted(run.hparams, k, shift)
            return trained(run, lambda t: there if t in steps else run.hparams, held)

        return tree_map(lambda a, b: (a - b) / (2 * delta), end(delta), end(-delta))

    if run.mu == 1.0:
        return slope(range(count))
    weights = [run.mu ** (count - 1 - s) for s in range(count)]
    return tree_map(
        lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)),
        *(slope([s]) for s in range(count)),
    )


def shifted(hparams: HParams, k: int, shift: float) -> HParams:
    """``hparams`` with the k-th scalar moved."""
    etas, treedef = tree_flatten(hparams)
    return tree_unflatten(treedef, [eta + shift * (i == k) for i, eta in enumerate(etas)])


def reach(run: Run, k: int) -> float:
    """How far the k-th scalar is moved: by its distance from its domain's end.

    beta2 acts by 1 - beta2.
    """
    ends = bounds(run.hparams, own_domains(run.loss_fn))
    low, high = (tree_leaves(bound)[k] for bound in ends)
    eta = float(tree_leaves(run.hparams)[k])
    return run.step * min(eta - low, high - eta, 1 + abs(eta)) or 1e-6
