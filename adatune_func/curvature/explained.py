"""What torch says when a derivative is missing, and what to do instead."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

from ..trees import Hvp, is_compiling

P = ParamSpec("P")
R = TypeVar("R")


class Saying(NamedTuple):
    """What torch says, as a pattern, and what that means."""

    said: str
    words: str


#: A gradient by torch.func, be it part of a product or not.
NO_GRADIENT = (
    Saying(
        "saved tensor hooks",
        "activation checkpointing and other saved-tensor hooks have no derivative by torch.func; "
        "leave torch.utils.checkpoint out and take hvp=accumulate(exact, m), which holds 1/m of "
        "the activations",
    ),
    Saying(
        "must override the setup_context",
        "an autograd.Function has a derivative by torch.func only with a setup_context beside its "
        "forward (docs.pytorch.org, Extending torch.func); torch.utils.checkpoint with "
        "use_reentrant=True is one without: leave it out and take hvp=accumulate(exact, m), which "
        "holds 1/m of the activations",
    ),
    Saying(
        "Cannot access data pointer of Tensor that doesn't have storage",
        "torch.func cannot reach the memory of a tensor that an operation asks for; with packed "
        "sequences, run the recurrent layer over the padded batch and gather its output at "
        "lengths - 1",
    ),
    Saying(
        r"requires_grad_\(\)",
        "inside the loss, take derivatives by torch.func.grad(fn)(x) in place of "
        "x.requires_grad_() and torch.autograd.grad",
    ),
)


def _missing(lacking: str, otherwise: str) -> tuple[Saying, ...]:
    return (
        Saying(
            "(?s)(BFloat16|Half).*(same dtype|be the same)"
            "|(same dtype|scalar type).*(BFloat16|Half)",
            "two precisions meet in one operation: give the batch the dtype of the parameters; "
            "under autocast, where a second derivative mixes them, take hvp=finite_difference(), "
            "or leave autocast out of that layer, torch.autocast(device, enabled=False)",
        ),
        Saying(
            "forward.AD|forward mode AD|derivative for|ZeroTensors",
            f"the loss uses an operation without {lacking}: {otherwise}. A model that chooses a "
            "kernel of attention itself should leave that to the product, which takes one that has "
            "all derivatives",
        ),
    )


def in_words(lacking: str, other: str = "") -> Callable[[Hvp], Hvp]:
    """Say what to do when a kernel lacks a derivative (in eager: dynamo raises its own error)."""
    gradients = "hvp=finite_difference(), which needs gradients only"
    return explained(
        NO_GRADIENT
        + _missing(
            lacking,
            f"take hvp={other}, exact as well, or, where that raises too, {gradients}"
            if other
            else f"take {gradients}",
        )
    )


def explained(sayings: tuple[Saying, ...]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Raise torch's errors as what they mean, torch's own first line behind it."""

    def translated(fn: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(fn)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            if is_compiling():
                return fn(*args, **kwargs)
            try:
                return fn(*args, **kwargs)
            except (NotImplementedError, RuntimeError) as error:
                said = str(error)
                words = next((s.words for s in sayings if re.search(s.said, said)), None)
                if words is None or error.__cause__ is not None:  # explained already, further in
                    raise
                first_line = said.splitlines()[0]
                raise NotImplementedError(f"{words} (torch: {first_line})") from error

        return wrapper

    return translated
