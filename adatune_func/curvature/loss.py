"""A training loss as what the products see: a pure function, its parts, its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.func import grad_and_value

from ..trees import Batch, Buffers, LossFn, Params, is_a, tree_map
from .explained import NO_GRADIENT, explained


class ModelLoss(NamedTuple):
    """A pure loss that shows its two parts, ``criterion(model_fn(params, buffers, batch), batch)``.

    Called, it is a ``loss_fn`` as any other. What needs to see between model and criterion, such as
    Gauss-Newton products, takes it apart.

    Attributes:
        model_fn: ``model_fn(params, buffers, batch) -> (output, buffers)``.
        criterion: ``criterion(output, batch) -> loss``, 0-d.
    """

    model_fn: Callable[[Params, Buffers, Batch], tuple[Any, Buffers]]
    criterion: Callable[[Any, Batch], Tensor]

    def __call__(self, params: Params, buffers: Buffers, batch: Batch) -> tuple[Tensor, Buffers]:
        output, buffers = self.model_fn(params, buffers, batch)
        return self.criterion(output, batch), buffers


class Gradient(NamedTuple):
    """``grad_fn(params, batch) -> (grads, (loss, buffers))`` of a loss at the given buffers.

    Raises:
        ValueError: when the loss is not a scalar, or the loss function returns something else.
        NotImplementedError: in words, where torch.func has no gradient (activation checkpointing).
    """

    loss_fn: LossFn
    buffers: Buffers

    @explained(NO_GRADIENT)
    def __call__(self, params: Params, batch: Batch) -> tuple[Params, tuple[Tensor, Buffers]]:
        def scalar_loss(params: Params) -> tuple[Tensor, tuple[Tensor, Buffers]]:
            result = self.loss_fn(params, self.buffers, batch)
            if not is_a(result, tuple) or len(result) != 2:
                raise ValueError(
                    f"loss_fn must return (loss, buffers), got {type(result).__name__}"
                )
            loss, moved = result
            return checked_scalar(loss), (loss, moved)

        grads, (_, aux) = grad_and_value(scalar_loss, has_aux=True)(params)
        return tree_map(_dense, grads), aux


def _dense(grad: Tensor) -> Tensor:
    """A sparse embedding's gradient in full: the step adds it to what is dense."""
    return grad.to_dense() if grad.is_sparse else grad


def checked_scalar(loss: Tensor) -> Tensor:
    """``loss``, or a ValueError in words."""
    if loss.ndim != 0:
        raise ValueError(f"the loss must be a scalar, got shape {tuple(loss.shape)}; take its mean")
    return loss
