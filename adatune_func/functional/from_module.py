"""A pure loss function from a module and a criterion."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..trees import Batch, Buffers, LossFn
from .calls import Call, call_of, keywords_of, whole_call_of
from .hparams import with_hparams
from .losses import forward_of, loss_of_both, loss_with_params, model_loss, own_loss
from .parts import Part, part_of
from .reached import HELD, first_call_watched, holder_of
from .values import CRITERION


class Functional(NamedTuple):
    """A pure loss and the values to start from, as :func:`functionalize` returns them."""

    loss_fn: LossFn
    params: dict[str, Tensor]
    buffers: Buffers


def functionalize(
    module: nn.Module,
    criterion: Callable[..., Tensor] | None,
    train: bool | None = None,
    *,
    hparams: Mapping[str, Any] | None = None,
    domains: Mapping[str, tuple[float, float]] | None = None,
) -> Functional:
    """Return ``(loss_fn, params, buffers)`` with ``loss_fn = criterion(module(*inputs), target)``.

    ``loss_fn(params, buffers, batch) -> (loss, buffers)`` is pure: it returns the buffers after the
    forward pass (running statistics, counters) instead of changing them. ``params`` are the
    parameters with ``requires_grad``; frozen ones travel with ``buffers``. Both are detached
    copies, and the module itself is copied: a later ``module.eval()`` or optimizer step changes
    nothing here. Tied weights are one entry.

    What a batch is, and what the criterion sees of it:

        (*inputs, target)     module(*inputs), criterion(output, target)
        (x,) or x             module(x), criterion(output, x): its own target
        {name: value, ...}    module(**batch), criterion(output, batch)

    Of a dict, ``forward`` is given the keys that it names. Without a criterion all of the batch
    goes to the module and the loss is what it returns: a scalar, ``output.loss``,
    ``output["loss"]``, or the first of a tuple.

    Args:
        module: any module that ``torch.func.functional_call`` can call.
        criterion: ``criterion(output, target)`` returning a scalar, such as ``F.cross_entropy``.
            The parameters and buffers of one that is a module, not of ``torch.nn``, are among
            those returned, as ``criterion.<name>``. ``None``: the module returns its loss.
        train: the mode in which the copy is fixed; ``None`` keeps that of each submodule. ``False``
            gives an eval-mode loss, for instance as ``val_loss_fn`` (not exact with BatchNorm: the
            path through the running statistics is left out).
        hparams: hyperparameters of the loss, name to value, given to the criterion by keyword
            (without a criterion, to the module). ``loss_fn`` is a :class:`Loss` then, whose tuner
            may tune them, and its ``plain``, the loss that judges, is the criterion without these
            keywords: give each its neutral value as default, ``def criterion(output, target,
            smoothing=0.0)``. Without a default whoever tunes it says by what to judge.
        domains: name to (low, high), where a tuned one stays; see :class:`Loss`.

    Raises:
        TypeError, ValueError: for a module that cannot be made pure, in words, and for a criterion
            that holds the module: its copy is trained, so what such a criterion reads never moves.
            From ``loss_fn``, when params and buffers are not those of the module.
    """
    model = part_of(module, "", train)
    if train is None and not module.training:
        warnings.warn(
            "the module is in eval mode and is trained so, without dropout and on BatchNorm's "
            "running statistics: call model.train() first, or say so by train=False",
            stacklevel=2,
        )
    bare, parts = _bare(module, criterion, train, model)
    if hparams is None:
        return _functional(bare, *parts)
    taker = module if criterion is None else criterion
    return _functional(with_hparams(bare, taker, hparams, domains), *parts)


def _bare(
    module: nn.Module, criterion: Callable[..., Tensor] | None, train: bool | None, model: Part
) -> tuple[LossFn, list[Part]]:
    """The loss without hyperparameters, and the parts whose tensors it takes."""
    if criterion is None:
        forward = forward_of([model], whole_call_of, module)
        return own_loss(forward), [model]
    if (holder := holder_of(criterion, module)) is not None:
        raise ValueError(HELD.format(what=f"the criterion holds the module (as {holder})"))
    keywords = keywords_of(model.module)

    def read(batch: Batch) -> Call:
        return call_of(batch, keywords)

    if not isinstance(criterion, nn.Module) or _is_constant(criterion):
        forward = forward_of([model], read, module)
        judge = first_call_watched(criterion, module)
        return model_loss(forward, judge, read), [model]
    own = _criterion_part(criterion, train, model)
    forward = forward_of([model, own], read, module)
    loss_fn = loss_of_both(forward, own) if own.buffers else loss_with_params(forward, own, read)
    return loss_fn, [model, own]


def _functional(loss_fn: LossFn, *parts: Part) -> Functional:
    params = {n: p for part in parts for n, p in part.params.items()}
    return Functional(loss_fn, params, {n: b for part in parts for n, b in part.buffers.items()})


def _is_constant(criterion: nn.Module) -> bool:
    """A loss of ``torch.nn``, whose buffers (class weights) never move; or one without tensors."""
    if any(True for _ in criterion.parameters()):
        return False
    of_torch = type(criterion).__module__ == nn.CrossEntropyLoss.__module__
    return of_torch or not any(True for _ in criterion.buffers())


def _criterion_part(criterion: nn.Module, train: bool | None, model: Part) -> Part:
    own = part_of(criterion, CRITERION, train)
    clash = sorted({*own.params, *own.buffers} & {*model.params, *model.buffers})
    if clash:
        raise ValueError(
            f"{', '.join(clash[:3])} is a name of the module and of its criterion: let the module "
            "call its part something else than 'criterion'"
        )
    return own
