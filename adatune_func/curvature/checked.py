"""What a loss function returns, or a sentence that says what it should."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..trees import Buffers, Params, is_a, tree_leaves, type_name


def checked_result(result: Any, buffers: Buffers) -> tuple[Tensor, Buffers]:
    """``(loss, buffers)``: the loss a scalar, the buffers alike those that were given."""
    if not is_a(result, tuple) or len(result) != 2:
        several = f"a {type_name(result)} of {len(result)}" if is_a(result, tuple | list) else ""
        raise ValueError(
            f"loss_fn must return (loss, buffers), got {several or type_name(result)}; what else "
            "is to be known of a batch, compute beside the step"
        )
    loss, moved = result
    _check_alike(moved, buffers)
    return checked_scalar(loss), moved


def checked_scalar(loss: Tensor) -> Tensor:
    """``loss``, or a ValueError in words."""
    if not is_a(loss, Tensor):
        raise ValueError(f"the loss must be a scalar tensor, got {type_name(loss)}")
    if loss.ndim != 0:
        raise ValueError(f"the loss must be a scalar, got shape {tuple(loss.shape)}; take its mean")
    if not loss.is_floating_point():
        raise ValueError(f"the loss must be floating point, got {loss.dtype}")
    return loss


def checked_output(output: Any) -> Any:
    """A model's output that products can be taken through: tensors, in dicts, tuples, lists."""
    for leaf in tree_leaves(output):
        if not is_a(leaf, Tensor):
            raise TypeError(
                f"gauss_newton cannot look into what the model returns, it holds a "
                f"{type_name(leaf)}: let it return a tensor, or a dict or tuple of them, or take "
                "hvp=exact"
            )
    return output


def checked_connected(loss: Tensor) -> Tensor:
    """``loss`` inside ``torch.func.grad``, where one that no parameter leads to has zeros."""
    if not loss.requires_grad:
        raise ValueError(
            "the loss does not depend on params: nothing would be trained. A loss_fn that calls "
            "its module directly sees the module's own parameters: call torch.func."
            "functional_call(module, {**params, **buffers}, inputs) or take functionalize, and "
            "leave out no_grad, detach and .item()"
        )
    return loss


def _check_alike(moved: Any, buffers: Buffers) -> None:
    if moved is None:
        raise ValueError(
            "loss_fn must return (loss, buffers), got (loss, None): return the buffers it was "
            "given, {} among them"
        )
    if not is_a(moved, dict) or not is_a(buffers, dict):
        return
    odd = sorted(map(str, {*moved} ^ {*buffers}))
    if odd:
        raise ValueError(
            f"loss_fn must return the buffers it was given, moved: {', '.join(odd[:5])} is in one "
            "of the two only; a new one starts in tuner.init(params, hparams, buffers)"
        )
    for name, buffer in moved.items():
        given = buffers[name]
        if not is_a(buffer, Tensor):
            raise ValueError(f"the buffer {name} must be a tensor, loss_fn returns {buffer!r}")
        if (buffer.shape, buffer.dtype) != (given.shape, given.dtype):
            raise ValueError(
                f"the buffer {name} was {_described(given)} and comes back {_described(buffer)}: "
                "keep its shape and dtype"
            )


def versions(params: Params) -> list[int]:
    """How often each leaf was written into, for :func:`check_unwritten`."""
    return [leaf._version for leaf in tree_leaves(params)]


def check_unwritten(params: Params, before: list[int]) -> None:
    """Raise ValueError where the loss has written into its parameters."""
    if versions(params) != before:
        raise ValueError(
            "the loss writes into its params in place, and with them into the state it was given: "
            "compute a new tensor instead (an Embedding with max_norm writes into its weight: "
            "scale what it returns)"
        )


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
