"""Optimizers as triples of pure pieces, step for step equal to ``torch.optim``.

An optimizer is ``Optimizer(init, update, hparams)``; ``params + updates`` is the step. Everything
in ``update`` is differentiated by ``torch.func.jvp``, so an optimizer of your own needs no
derivative: only functions that are differentiable where they are used, and a state whose leaves are
all floating point (step counters too).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..trees import HParams, Params, PyTree


def at_params(params: Params, opt_state: PyTree) -> Params:
    """``params``: training is judged where it is."""
    return params


class Optimizer(NamedTuple):
    """A first-order optimizer as pure functions.

    Attributes:
        init: ``init(params) -> opt_state``, a pytree of floating-point tensors.
        update: ``update(grads, opt_state, params, hparams) -> (updates, opt_state)``; trees of the
            shapes of ``params`` and ``opt_state``. Here ``hparams`` has every name of the field
            below: a 0-d tensor where it is tuned, else the number given at construction. Write
            arithmetic that takes both.
        hparams: each hyperparameter's name and its value at construction; what is tuned
            overrides it.
        judged: ``judged(params, opt_state) -> params``, where the outer loss is taken: the
            parameters, or a tree of their shapes in the state, as an average of them. It selects,
            so it takes the tangent of both to the tangent of what it selects.
        lag: how many steps that place lies behind, 1 for the parameters.
    """

    init: Callable[[Params], PyTree]
    update: Callable[[Params, PyTree, Params, HParams], tuple[Params, PyTree]]
    hparams: dict[str, Any]
    judged: Callable[[Params, PyTree], Params] = at_params
    lag: float = 1.0
