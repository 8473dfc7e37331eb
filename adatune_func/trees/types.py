"""The words the package speaks in: what a tree, a batch, a loss and a gradient are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from torch import Tensor

#: Nested dicts, tuples, lists and NamedTuples with tensors at the leaves, never ``None``.
PyTree: TypeAlias = Any

#: Trainable parameters by name, as in ``module.named_parameters()``. Any pytree works.
Params: TypeAlias = Any

#: What a model carries but does not train, by name: running statistics, frozen parameters.
Buffers: TypeAlias = dict[str, Tensor]

#: Tuned hyperparameters: name to 0-d tensor, or name to a dict from prefix to 0-d tensor.
HParams: TypeAlias = dict[str, Any]

#: Whatever ``loss_fn`` takes as data.
Batch: TypeAlias = Any

#: ``loss_fn(params, buffers, batch) -> (loss, buffers)``, pure; the loss is 0-d.
LossFn: TypeAlias = Callable[[Params, Buffers, Batch], tuple[Tensor, Buffers]]

#: ``grad_fn(params, batch) -> (grads, aux)``; aux is ``(loss, buffers)``.
GradFn: TypeAlias = Callable[[Params, Batch], tuple[Params, Any]]


#: ``mean(tree) -> tree``: what the parts of a batch say, as the whole batch says it.
Mean: TypeAlias = Callable[[PyTree], PyTree]

#: ``(grads, Hv, aux)``.
Products: TypeAlias = tuple[Params, Params, Any]


class Signal(NamedTuple):
    """What a rule sees of a step, each shaped as hparams.

    Attributes:
        hypergrads: ``h_k = <∇E(w), Z_k>``, the derivative of the outer loss.
        cosine: of ``∇E(w)`` and ``Z_k``, in [-1, 1], 0 where Z is 0.
        here: where E is taken at an average of the weights, ``<g, Z_k>`` of the training batch at
            the weights themselves, before the step; else ``hypergrads``.
        trust: from 0 to 1, how much of the lag of that average Z_k has lived; 1 without one.
    """

    hypergrads: HParams
    cosine: HParams
    here: HParams
    trust: HParams


#: ``isinstance`` that narrows nothing: for checks of what an annotation already promises, and where
#: narrowing ``Any`` to ``dict`` or ``Mapping`` would make unknowns of its keys and values.
is_a: Callable[[Any, Any], bool] = isinstance


class Hvp(Protocol):
    """Gradient and Hessian-vector products from one look at a batch."""

    def __call__(self, grad_fn: GradFn, params: Params, batch: Batch, v: Params, /) -> Products:
        """Return ``(grads, Hv, aux)``; ``v`` and ``Hv`` have K columns on dim 0."""
        ...
