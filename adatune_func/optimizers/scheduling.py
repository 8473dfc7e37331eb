"""A tuned scale times a known shape: the optimizer uses ``lr · shape(t)``, h is that of lr.

What a lower lr gains at the end of a run no hypergradient of a short horizon sees (Wu et al. 2018,
arXiv 1803.02021), but it need not: the end of a run is known. So the scale is tuned, and the
cool-down is given. Mechanic and Prodigy are used in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..trees import (
    HParams,
    Params,
    PyTree,
    is_a,
    scalar_like,
    tree_flatten,
    tree_map,
    tree_unflatten,
    type_name,
)
from .optimizer import Optimizer, at_params


class ScheduledState(NamedTuple):
    inner: PyTree
    step: Tensor  # calls so far, null steps included, 0-d
    factor: Tensor  # of lr, for the next step
    cooling_from: Tensor  # the step at which a cool-down that was asked for began
    cooling_rate: Tensor  # what it takes off the factor at each step, 0 before


def scheduled(optimizer: Optimizer, shape: Callable[[Tensor], float | Tensor]) -> Optimizer:
    """Train with ``lr · shape(t)``, t = 0, 1, ...; what is tuned, and its h, is the scale lr.

    The recursion differentiates through the product, so h is exact with respect to lr. A scale that
    is a dict (``scheduled(by_prefix(...), shape)``) is scaled value by value. t counts calls, null
    steps too, so that a run of so many calls is over with its shape. Other hyperparameters are left
    alone, but what an optimizer multiplies by lr follows it, as the weight decay of adamw does.

    Where the end of the run is not known, give a shape without one and say when it has come:
    ``state = cool_down(state, steps)``.

    Args:
        shape: of the step as a 0-d tensor, to a 0-d tensor; the module ``shapes`` has some.

    Raises:
        ValueError: at once, when the optimizer has no lr.
        TypeError: at ``init``, for a shape that gives anything but a 0-d tensor.

    >>> import torch
    >>> from adatune_func import sgd, shapes
    >>> optimizer = scheduled(sgd(lr=0.5), shapes.warmup(2))
    >>> params = {"w": torch.ones(())}
    >>> optimizer.update(params, optimizer.init(params), params, optimizer.hparams)[0]
    {'w': tensor(-0.2500)}
    """
    if "lr" not in optimizer.hparams:
        known = ", ".join(optimizer.hparams) or "none"
        raise ValueError(f"scheduled needs a hyperparameter lr; the optimizer has {known}")

    def init(params: Params) -> ScheduledState:
        zero = scalar_like(params, 0.0)
        factor: Any = shape(zero)
        if not is_a(factor, Tensor) or factor.ndim != 0:
            raise TypeError(
                f"a shape must give a 0-d tensor for a 0-d tensor, got {type_name(factor)}; the "
                "module shapes has cooldown, linear, cosine, warmup"
            )
        return ScheduledState(
            optimizer.init(params), zero, factor.to(zero), zero.clone(), zero.clone()
        )

    @functools.wraps(optimizer.update)
    def update(
        grads: Params, state: ScheduledState, params: Params, hparams: HParams
    ) -> tuple[Params, ScheduledState]:
        lr = tree_map(lambda lr: state.factor * lr, hparams["lr"])
        updates, inner = optimizer.update(grads, state.inner, params, {**hparams, "lr": lr})
        step = state.step + 1
        # What only counts has no tangent: a shape may take roots and floors of it.
        time, began, rate = (x.detach() for x in (step, state.cooling_from, state.cooling_rate))
        factor = shape(time) * (1 - rate * (time - began)).clamp(min=0.0)
        return updates, state._replace(inner=inner, step=step, factor=factor.to(time))

    def judged(params: Params, state: ScheduledState) -> Params:
        return optimizer.judged(params, state.inner)

    where = at_params if optimizer.judged is at_params else judged
    return optimizer._replace(init=init, update=update, judged=where)


def begin_cooling(opt_state: PyTree, steps: int) -> PyTree:
    """``opt_state`` whose factor falls linearly to 0 within ``steps`` from the next step on.

    Raises:
        ValueError: without a :func:`scheduled` in it, and for ``steps`` below 1.
    """
    if not steps >= 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    _outermost(opt_state)

    def begin(node: PyTree) -> PyTree:
        if not is_a(node, ScheduledState):
            return node
        rate = torch.full_like(node.step, 1 / steps)
        return node._replace(cooling_from=node.step.clone(), cooling_rate=rate)

    leaves, treedef = tree_flatten(opt_state, is_leaf=_is_scheduled)
    return tree_unflatten(treedef, [begin(leaf) for leaf in leaves])


def ticked(opt_state: PyTree, after: PyTree) -> PyTree:
    """``opt_state`` as it is, its shapes where they are in ``after``: time goes on, whatever else.

    For a null step, so that a cool-down over the last steps of a run is over when these are.
    """
    nodes, treedef = tree_flatten(opt_state, is_leaf=_is_scheduled)
    later = tree_flatten(after, is_leaf=_is_scheduled)[0]

    def of(node: PyTree, then: PyTree) -> PyTree:
        if not is_a(node, ScheduledState):
            return node
        return then._replace(inner=ticked(node.inner, then.inner))

    return tree_unflatten(treedef, [of(*pair) for pair in zip(nodes, later, strict=True)])


def factor_of(opt_state: PyTree) -> Tensor:
    """What :func:`scheduled` multiplies lr by at the next step, 0-d."""
    return _outermost(opt_state).factor


def _outermost(opt_state: PyTree) -> ScheduledState:
    for node in tree_flatten(opt_state, is_leaf=_is_scheduled)[0]:
        if is_a(node, ScheduledState):
            return node
    raise ValueError("nothing in this state is scheduled: wrap the optimizer in scheduled(...)")


def _is_scheduled(node: PyTree) -> bool:
    return is_a(node, ScheduledState)
