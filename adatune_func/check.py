"""Is the hypergradient right for this model and optimizer? Ask central differences."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checking import (
    End,
    Moment,
    PartCheck,
    Run,
    at_its_precision,
    difference,
    explained,
    in_float64,
    part_checks,
    tolerance,
    trace,
    trained,
    with_cheap_gradients,
)
from .curvature import check_judged, exact, own_hparams, plain_loss, tuned_in
from .optimizers import Optimizer, checked_hparams
from .recursion import Inner
from .trees import (
    Batch,
    Buffers,
    HParams,
    Hvp,
    LossFn,
    Params,
    all_finite,
    checked_params,
    checked_state,
    dot,
    norm,
    tree_leaves,
    tree_map,
    tree_paths,
)


class TangentCheck(NamedTuple):
    """One tuned scalar's hypergradient beside central differences of the run; printed, a report.

    Attributes:
        hypergrad: by the recursion.
        difference: by central differences.
        relative_error: ``|hypergrad - difference| / |difference|``; 0 where both are the same,
            inf where only the difference is 0 or one is not finite.
        cosine: of the parameters' tangent Z and its central difference; 1 is right.
        precision: "float64", or the lowest one that the loss or the optimizer casts to.
        parts: product, optimizer, outer gradient and buffers, each beside its own difference.
        says: a sentence for each fault that was found; empty where there is none.
    """

    hypergrad: float
    difference: float
    relative_error: float
    cosine: float
    precision: str = "float64"
    parts: tuple[PartCheck, ...] = ()
    says: tuple[str, ...] = ()

    def __repr__(self) -> str:
        lines = [
            f"hypergradient {self.hypergrad:.6g}, by differences of the run {self.difference:.6g}: "
            f"relative error {self.relative_error:.1e}, cosine of Z {self.cosine:.6f}, in "
            f"{self.precision}"
        ]
        lines += [f"{part.part:>14} {_off(part.relative_error)}" for part in self.parts]
        return "\n".join([*lines, *(f"  * {sentence}" for sentence in self.says)])


def _off(error: float) -> str:
    return f"relative error {error:.1e}" if error else "the same up to rounding"


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
    """Compare the hypergradient with central differences of the run, by hyperparameter.

    Trains one step on each ``batch`` of ``(batch, val_batch)`` with hyperparameters held
    constant; the outer loss is that of the last ``val_batch``. With mu < 1 each step's
    hyperparameters are perturbed alone and the differences summed with the discount, ``h = Σ_s
    mu^(T-1-s) dE/dη_s``: 2KT runs of T steps for K scalars, so take few. Random numbers
    (dropout) are the same in every run. All is done in float64, unless the loss or the optimizer
    casts: ``precision`` says so.

    An exact hvp and a correct, smooth optimizer give a relative error of about 1e-6 and a
    cosine of 1. Else ``says`` names the part that is off: the product, the optimizer, the outer
    gradient, or the path through the buffers.

    Args:
        params, hparams, batches, buffers: as a tuner takes them, in any precision.
        hvp: the strategy under test; mu: the discount, a float in [0, 1].
        val_loss_fn: the outer loss; by default ``loss_fn``, of a :class:`Loss` its ``plain``.

    Returns:
        One :class:`TangentCheck` a tuned scalar, by its name (``lr``, or ``lr.prefix``).

    Raises:
        ValueError, TypeError: as a tuner's ``init`` does; ValueError when ``batches`` or
            ``hparams`` is empty, where the run is not finite;
            where a loss is not the same twice; TypeError where it mixes float64 with a float32
            tensor of its own.

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
    >>> report["lr"].relative_error < 1e-6, report["lr"].says
    (True, ())
    """
    if not batches:
        raise ValueError("check_tangents needs at least one (batch, val_batch)")
    if not tree_leaves(hparams):
        raise ValueError("hparams is empty: check_tangents needs one to tune, such as {'lr': 0.1}")
    if tuned_in(loss_fn, hparams):
        check_judged(loss_fn, hparams, val_loss_fn)
    params = in_float64(checked_params(params))
    run = Run(
        loss_fn=loss_fn,
        outer_loss_fn=val_loss_fn or plain_loss(loss_fn),
        optimizer=optimizer,
        hvp=hvp,
        mu=mu,
        start=Inner(params, checked_state(optimizer.init(params))),
        hparams=checked_hparams(hparams, optimizer, params, own_hparams(loss_fn)),
        buffers=in_float64(buffers or {}),
        batches=in_float64(list(batches)),
        gradients=hvp,
        unit=torch.finfo(torch.float64).eps,
    )
    names = [".".join(map(str, path)) for path in tree_paths(run.hparams)]
    with _repeatable():
        run, precision, remarks = at_its_precision(run)
        run = with_cheap_gradients(run)
        moments, end = trace(run)
        if not bool(all_finite(end.u, end.outer_loss)):
            raise ValueError(_NOT_FINITE)
        again = trained(run, lambda _: run.hparams)[1]
        if float((again - end.outer_loss).abs()) > 1e7 * run.unit * float(again.abs()):
            raise ValueError(_NOT_THE_SAME)
        return {
            name: _compare(k, name, run, moments, end, precision, remarks)
            for k, name in enumerate(names)
        }


_NOT_FINITE = (
    "the run itself is not finite, so there is nothing to compare: look for NaN in batches and "
    "params, or take a lower lr"
)

_NOT_THE_SAME = (
    "two runs of the same numbers differ, so differences of runs say nothing: the loss has a "
    "random generator or a state of its own (a counter, a cache); keep that in buffers, and draw "
    "from torch's default generator"
)


def _compare(
    k: int,
    name: str,
    run: Run,
    moments: Sequence[Moment],
    end: End,
    precision: str,
    remarks: Sequence[str],
) -> TangentCheck:
    tangent, slope = difference(run, k)
    h, column = end.hypergrads[k], tree_map(lambda leaf: leaf[k], end.z.params)
    parts = part_checks(run, k, moments, end, slope)
    error = _relative(h, slope)
    cosine = _cosine(tangent, column, error)
    says = [*remarks, *explained(run, k, name, parts, moments)]
    if error > tolerance(run) and not says:
        says.append(_ALL_PARTS)
    return TangentCheck(float(h), float(slope), error, cosine, precision, tuple(parts), tuple(says))


_ALL_PARTS = (
    "each part is right by itself: differences of the whole run cross kinks (ReLU, max-pooling) or "
    "are rounding beside a small hypergradient; take fewer steps, a lower lr or a smooth network"
)


def _relative(h: Tensor, slope: Tensor) -> float:
    error, scale = float((h - slope).abs()), abs(float(slope))
    if error == 0:
        return 0.0
    return error / scale if math.isfinite(error) and 0 < scale < math.inf else math.inf


def _cosine(tangent: Params, column: Params, error: float) -> float:
    scale = norm(tangent) * norm(column)
    return float(dot(tangent, column) / scale) if float(scale) > 0 else float(error == 0.0)


@contextlib.contextmanager
def _repeatable() -> Generator[None]:
    """The caller's generator left alone."""
    random: Any = torch.random  # torch does not say what this takes
    with random.fork_rng(), torch.no_grad():
        yield
