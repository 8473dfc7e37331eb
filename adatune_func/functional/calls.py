"""How a batch calls a module, and where the loss is in what it returns.

(*inputs, target)     module(*inputs), criterion(output, target)
(x,) or x             module(x), criterion(output, x): its own target
{name: value, ...}    module(**batch), criterion(output, batch)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..trees import Batch, is_a


class Call(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any


def call_of(batch: Batch, keywords: frozenset[str] | None) -> Call:
    """Inputs and target of a batch for a criterion; ``keywords``: those that forward takes."""
    if is_a(batch, Mapping):
        return Call(
            (), {k: v for k, v in batch.items() if keywords is None or k in keywords}, batch
        )
    if is_a(batch, tuple | list) and not is_a(batch, PackedSequence):
        if not batch:
            raise ValueError("the batch is empty: a batch is (*inputs, target)")
        return Call(tuple(batch[:-1] if len(batch) > 1 else batch), {}, batch[-1])
    return Call((batch,), {}, batch)


def whole_call_of(batch: Batch) -> Call:
    """All of a batch as inputs, for a module that returns its own loss."""
    call = call_of(batch, None)
    if is_a(batch, tuple | list) and not is_a(batch, PackedSequence):
        return call._replace(args=tuple(batch))
    return call


def keywords_of(module: nn.Module) -> frozenset[str] | None:
    """The names that ``forward`` takes as keywords; ``None`` where it takes any."""
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(
        p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    )


def loss_in(output: Any) -> Tensor:
    """The loss that a module returns: all of it, ``.loss``, ``["loss"]``, or the first of several.

    Raises:
        ValueError: when there is none.
    """
    loss = output
    if is_a(output, Mapping):
        loss = output.get("loss")
    elif hasattr(output, "loss"):
        loss = output.loss
    elif is_a(output, tuple | list) and output:
        loss = output[0]
    if is_a(loss, Tensor) and loss.ndim == 0:
        return loss
    raise ValueError(
        "criterion=None takes the loss that the module returns (a scalar, output.loss, "
        f"output['loss'], or the first of a tuple), and found {_described(loss)}; does the batch "
        "hold the labels? else give a criterion"
    )


def words_for_call(call: Call) -> str:
    """What to say when a module does not take its batch."""
    given = [type(a).__name__ for a in call.args]
    given += [f"{k}={type(v).__name__}" for k, v in call.kwargs.items()]
    return (
        f"the batch was read as module({', '.join(given)}), which failed; a batch is (*inputs, "
        "target), a dict of forward's keywords, or one input that is its own target"
    )


def words_for_criterion(output: Any, target: Any) -> str | None:
    """What to say when a criterion does not take what it is given, if that is no tensor."""
    if is_a(target, Mapping):
        return (
            f"of a {type(target).__name__} batch the criterion is given all: take the target out "
            'of it, lambda output, batch: F.cross_entropy(output, batch["labels"])'
        )
    if not is_a(output, Tensor):
        return (
            f"the module returns a {type(output).__name__}: take the tensor out of it, "
            "lambda output, target: F.cross_entropy(output.logits, target)"
        )
    return None


def _described(value: Any) -> str:
    if is_a(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"
