"""The losses that :func:`functionalize` returns: how module, batch and criterion go together.

Each takes hyperparameters of its own as a last argument, for :class:`Loss`, and gives them by
keyword to the criterion, or to the module that returns its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..curvature import ModelLoss
from ..trees import Batch, Buffers, LossFn, Params, is_compiling
from .calls import Call, loss_in, words_for_call, words_for_criterion
from .parts import Part
from .reached import first_call_watched
from .values import check_names

#: ``(params, buffers, batch, hparams) -> (output, buffers, call)``, the last one optional.
Forward = Callable[..., tuple[Any, Buffers, Call]]
Keywords = Mapping[str, Any]
Read = Callable[[Batch], Call]

NONE: Keywords = {}


def forward_of(parts: list[Part], read: Read, original: nn.Module) -> Forward:
    """The first part at a batch, names checked; the rest of the names is the criterion's."""
    model = parts[0]
    param_names = frozenset(n for part in parts for n in part.params)
    buffer_names = frozenset(n for part in parts for n in part.buffers)
    called = first_call_watched(model.call, original)

    def forward(
        params: Params, buffers: Buffers, batch: Batch, hparams: Keywords = NONE
    ) -> tuple[Any, Buffers, Call]:
        check_names("params", params, param_names)
        check_names("buffers", buffers, buffer_names)
        call = read(batch)
        call = call._replace(kwargs={**call.kwargs, **hparams})
        if is_compiling():
            return *called(params, buffers, call.args, call.kwargs), call
        try:
            return *called(params, buffers, call.args, call.kwargs), call
        except TypeError as error:
            raise TypeError(f"{words_for_call(call)} ({error})") from error

    return forward


def _judged(criterion: Callable[..., Any], output: Any, target: Any, hparams: Keywords) -> Any:
    """``criterion(output, target)``; in eager, words where it is given what is no tensor."""
    if is_compiling():
        return criterion(output, target, **hparams)
    try:
        return criterion(output, target, **hparams)
    except (TypeError, AttributeError) as error:
        words = words_for_criterion(output, target)
        if words is None:
            raise
        raise TypeError(f"{words} ({error})") from error


def own_loss(forward: Forward) -> LossFn:
    """The loss that the module returns."""

    def loss_fn(
        params: Params, buffers: Buffers, batch: Batch, hparams: Keywords = NONE
    ) -> tuple[Tensor, Buffers]:
        output, moved, _ = forward(params, buffers, batch, hparams)
        return loss_in(output), moved

    return loss_fn


def model_loss(forward: Forward, criterion: Callable[..., Tensor], read: Read) -> ModelLoss:
    """``criterion(module(*inputs), target)``, with the place between them to be seen."""

    def model_fn(params: Params, buffers: Buffers, batch: Batch) -> tuple[Any, Buffers]:
        return forward(params, buffers, batch)[:2]

    def judge(output: Any, batch: Batch, hparams: Keywords = NONE) -> Tensor:
        return _judged(criterion, output, read(batch).target, hparams)

    return ModelLoss(model_fn, judge)


def loss_with_params(forward: Forward, own: Part, read: Read) -> ModelLoss:
    """The criterion's parameters are outputs of the model: Gauss-Newton is exact in them."""

    def model_fn(params: Params, buffers: Buffers, batch: Batch) -> tuple[Any, Buffers]:
        output, moved, _ = forward(params, buffers, batch)
        return (output, {name: params[name] for name in own.params}), moved

    def judge(output_and_own: Any, batch: Batch, hparams: Keywords = NONE) -> Tensor:
        output, values = output_and_own

        def criterion(*args: Any, **keywords: Any) -> Tensor:
            return own.call(values, {}, args, keywords)[0]

        return _judged(criterion, output, read(batch).target, hparams)

    return ModelLoss(model_fn, judge)


def loss_of_both(forward: Forward, own: Part) -> LossFn:
    """With buffers that the criterion moves, it cannot be taken apart from the model."""

    def loss_fn(
        params: Params, buffers: Buffers, batch: Batch, hparams: Keywords = NONE
    ) -> tuple[Tensor, Buffers]:
        output, moved, call = forward(params, buffers, batch)

        def criterion(*args: Any, **keywords: Any) -> tuple[Tensor, Buffers]:
            return own.call(params, buffers, args, keywords)

        loss, own_moved = _judged(criterion, output, call.target, hparams)
        return loss, {**{n: moved[n] for n in moved if n not in own.buffers}, **own_moved}

    return loss_fn
