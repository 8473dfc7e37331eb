"""Hyperparameters inside the training loss, and what a tuner differentiates where they are tuned.

With ``L(w, η)`` the gradient of training moves with η by itself, not only through w:

    dg/dη_k = ∇²_ww L Z_k + ∂²L/∂w∂η_k = ∇²L (Z_k, e_k)    in its part of w

so that a product taken along ``(Z_k, e_k)`` has the mixed term in it, and ``B`` with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..trees import (
    Batch,
    Buffers,
    HParams,
    Hvp,
    LossFn,
    Mean,
    Params,
    Products,
    alone,
    columns,
    is_a,
)
from .loss import Gradient, ModelLoss
from .point import Point
from .tensor_arguments import TensorArguments


class Loss(NamedTuple):
    """A training loss with hyperparameters of its own, tuned as those of an optimizer are.

    Called, it is a ``loss_fn`` as any other, at the values of ``hparams``.

    Attributes:
        fn: ``fn(params, buffers, batch, hparams) -> (loss, buffers)``, pure. ``hparams`` has every
            name of the field below: a tensor where it is tuned, else the value given here.
        hparams: each name and its value: a number, a 1-d tensor (a weight per class, a column of
            Z each), or a dict of numbers (a weight per task).
        plain: the loss without them, ``plain(params, buffers, batch)``, by which validation judges.
            ``None``: whoever tunes one of them says by what, ``marthe(val_loss_fn=...)``.
        domains: name to (low, high), where a tuned value stays; positive by default. It moves on
            the line that its domain says; see :mod:`adatune_func.rules.coordinates`.

    >>> from adatune_func import marthe, sgd
    >>> def ridge(params, buffers, x, hparams):
    ...     penalty = hparams["strength"] * params["w"].square().sum()
    ...     return (params["w"] - x).square().sum() + penalty, buffers
    >>> loss = Loss(ridge, {"strength": 0.1}, plain=lambda p, b, x: ridge(p, b, x, {"strength": 0}))
    >>> tuner, x = marthe(loss, sgd(lr=0.1)), torch.ones(2)
    >>> state = tuner.init({"w": torch.zeros(2)}, {"strength": 0.1})
    >>> for _ in range(3):
    ...     state, info = tuner.step(state, x, x)
    >>> bool(info.hypergrads["strength"] > 0)
    True
    """

    fn: Callable[[Params, Buffers, Batch, dict[str, Any]], tuple[Tensor, Buffers]]
    hparams: dict[str, Any]
    plain: LossFn | None = None
    domains: Mapping[str, tuple[float, float]] | None = None

    def __call__(self, params: Params, buffers: Buffers, batch: Batch) -> tuple[Tensor, Buffers]:
        return self.fn(params, buffers, batch, self.hparams)


def own_hparams(loss_fn: LossFn) -> dict[str, Any]:
    """The names that a loss has, and their values; none where it is a plain function."""
    return loss_fn.hparams if isinstance(loss_fn, Loss) else {}


def tuned_in(loss_fn: LossFn, hparams: HParams) -> HParams:
    """Those of ``hparams``, or of a tree shaped as these, that stand in the loss."""
    return {name: hparams[name] for name in own_hparams(loss_fn) if name in hparams}


def own_domains(loss_fn: LossFn) -> Mapping[str, tuple[float, float]]:
    """Where the loss says that its hyperparameters may live."""
    return loss_fn.domains or {} if isinstance(loss_fn, Loss) else {}


def plain_loss(loss_fn: LossFn) -> LossFn:
    """By what a loss is judged, unless one says otherwise."""
    return loss_fn.plain or loss_fn if isinstance(loss_fn, Loss) else loss_fn


def check_judged(
    loss_fn: LossFn,
    hparams: HParams,
    val_loss_fn: LossFn | None,
    grads_are_late: bool = False,
) -> None:
    """Raise ValueError where a loss would judge the hyperparameters that stand in it.

    ``grads_are_late``: mu is chosen by the gradient of the very step.
    """
    if val_loss_fn is None and plain_loss(loss_fn) is loss_fn:
        raise ValueError(
            f"{', '.join(tuned_in(loss_fn, hparams))} is tuned inside the training loss, which "
            "must not judge it: give the plain loss, val_loss_fn=..., or let the criterion have "
            "its neutral value as default, def criterion(output, target, smoothing=0.0)"
        )
    if grads_are_late:
        raise ValueError(
            'with outer="next_batch" a hyperparameter of the loss moves before the training '
            "gradient is taken, and this discount wants that gradient: take a constant mu, or "
            "validation"
        )


def at_values(loss_fn: LossFn, hparams: HParams) -> LossFn:
    """``loss_fn(params, buffers, batch)`` with the tuned values of its hyperparameters."""
    if not isinstance(loss_fn, Loss):
        return loss_fn
    fn, values = loss_fn.fn, _values(loss_fn, tuned_in(loss_fn, hparams))
    if isinstance(fn, ModelLoss):
        judge = fn.criterion

        def criterion(output: Any, batch: Batch) -> Tensor:
            with TensorArguments():
                return judge(output, batch, values)

        return ModelLoss(fn.model_fn, criterion)

    def whole(params: Params, buffers: Buffers, batch: Batch) -> tuple[Tensor, Buffers]:
        with TensorArguments():
            return fn(params, buffers, batch, values)

    return whole


def at_point(loss: Loss) -> LossFn:
    """``loss_fn(point, buffers, batch)``, a function of its tuned hyperparameters, too.

    They are outputs of the model: Gauss-Newton products have the criterion's whole curvature in
    them and in the model's output, hence the exact mixed term.
    """
    fn = loss.fn
    if not isinstance(fn, ModelLoss):

        def whole(point: Point, buffers: Buffers, batch: Batch) -> tuple[Tensor, Buffers]:
            with TensorArguments():
                return fn(point.params, buffers, batch, _values(loss, point.hparams))

        return whole
    plain_model_fn, judge = fn

    def model_fn(point: Point, buffers: Buffers, batch: Batch) -> tuple[Any, Buffers]:
        output, moved = plain_model_fn(point.params, buffers, batch)
        return (output, point.hparams), moved

    def criterion(output_and_tuned: Any, batch: Batch) -> Tensor:
        output, tuned = output_and_tuned
        with TensorArguments():
            return judge(output, batch, _values(loss, tuned))

    return ModelLoss(model_fn, criterion)


def products_along(
    hvp: Hvp,
    loss_fn: LossFn,
    buffers: Buffers,
    params: Params,
    batch: Batch,
    z: Params,
    hparams: HParams,
    mean: Mean = alone,
) -> Products:
    """``(g, ∇²L (Z_k, e_k), (loss, buffers))`` of the training loss at ``(w, η)``, by ``hvp``."""
    tuned = tuned_in(loss_fn, hparams)
    if not isinstance(loss_fn, Loss) or not tuned:
        return hvp(Gradient(at_values(loss_fn, {}), buffers, mean), params, batch, z)
    units = tuned_in(loss_fn, columns.basis(hparams))
    grad_fn = Gradient(at_point(loss_fn), buffers, mean)
    grads, products, aux = hvp(grad_fn, Point(params, tuned), batch, Point(z, units))
    return grads.params, products.params, aux


def outer_gradient(
    loss_fn: LossFn, buffers: Buffers, params: Params, batch: Batch, hparams: HParams
) -> tuple[Params, HParams, Tensor]:
    """``(∇E, ∂E/∂η, E)``; the second by name, empty unless E has tuned hyperparameters itself."""
    tuned = tuned_in(loss_fn, hparams)
    if not isinstance(loss_fn, Loss) or not tuned:
        grads, (loss, _) = Gradient(at_values(loss_fn, {}), buffers)(params, batch)
        return grads, {}, loss
    grads, (loss, _) = Gradient(at_point(loss_fn), buffers)(Point(params, tuned), batch)
    return grads.params, grads.hparams, loss


def _values(loss: Loss, tuned: HParams) -> dict[str, Any]:
    """What ``fn`` is given: a state holds a vector as a tuple of 0-d tensors, a column each."""
    whole = {n: torch.stack([*v]) if is_a(v, tuple) else v for n, v in tuned.items()}
    return {**loss.hparams, **whole}
