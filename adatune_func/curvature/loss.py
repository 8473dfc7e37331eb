"""A training loss as what the products see: a pure function, its parts, its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.func import grad_and_value

from ..trees import (
    Batch,
    Buffers,
    LossFn,
    Mean,
    Params,
    alone,
    check_batch,
    is_a,
    is_compiling,
    tree_map,
)
from .checked import check_unwritten, checked_connected, checked_result, versions
from .explained import NO_GRADIENT, explained
from .kernels import traceable


class ModelLoss(NamedTuple):
    """A pure loss that shows its two parts, ``criterion(model_fn(params, buffers, batch), batch)``.

    Called, it is a ``loss_fn`` as any other. What needs to see between model and criterion, such as
    Gauss-Newton products, takes it apart.

    Attributes:
        model_fn: ``model_fn(params, buffers, batch) -> (output, buffers)``.
        criterion: ``criterion(output, batch) -> loss``, 0-d; as ``fn`` of a :class:`Loss`,
            ``criterion(output, batch, hparams)``.
    """

    model_fn: Callable[[Params, Buffers, Batch], tuple[Any, Buffers]]
    criterion: Callable[..., Tensor]

    def __call__(
        self, params: Params, buffers: Buffers, batch: Batch, *hparams: dict[str, Any]
    ) -> tuple[Tensor, Buffers]:
        output, buffers = self.model_fn(params, buffers, batch)
        return self.criterion(output, batch, *hparams), buffers


class Gradient(NamedTuple):
    """``grad_fn(params, batch) -> (grads, (loss, buffers))`` of a loss at the given buffers.

    Of the batch that it is given, which may be a rank's part: ``mean`` is for whoever needs what
    the whole batch says, and tuners take it of all that an hvp returns.

    Raises:
        ValueError: when the loss is not a scalar, does not depend on the parameters, or the loss
            function returns something else, other buffers for instance, or writes into what it was
            given.
        NotImplementedError: in words, where torch.func has no gradient (activation checkpointing).
    """

    loss_fn: LossFn
    buffers: Buffers
    mean: Mean = alone

    @explained(NO_GRADIENT)
    def __call__(self, params: Params, batch: Batch) -> tuple[Params, tuple[Tensor, Buffers]]:
        check_batch(batch)

        def scalar_loss(params: Params) -> tuple[Tensor, tuple[Tensor, Buffers]]:
            loss, moved = checked_result(self._values(params, batch), self.buffers)
            return checked_connected(loss), (loss, moved)

        grads, (_, aux) = grad_and_value(scalar_loss, has_aux=True)(params)
        return tree_map(_dense, grads), aux

    def _values(self, params: Params, batch: Batch) -> Any:
        """What the loss function returns; in eager, words where it writes into what is given."""
        given = {**self.buffers} if is_a(self.buffers, dict) else self.buffers
        if is_compiling():
            with traceable():
                return self.loss_fn(params, given, batch)
        before = versions(params)
        try:
            with traceable():
                result = self.loss_fn(params, given, batch)
        except RuntimeError as error:
            if "mutate a captured Tensor" not in str(error):
                raise
            raise ValueError(
                "the loss writes in place into a tensor that is not its own (BatchNorm into its "
                "running statistics): clone the buffers, {n: b.clone() for n, b in "
                "buffers.items()}, give the clones to functional_call beside params, and return "
                f"them (torch: {error})"
            ) from error
        check_unwritten(params, before)
        return result


def _dense(grad: Tensor) -> Tensor:
    """A sparse embedding's gradient in full: the step adds it to what is dense."""
    return grad.to_dense() if grad.is_sparse else grad
