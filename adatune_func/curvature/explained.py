"""What torch says when a kernel lacks a derivative, and what to do instead."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from ..trees import Batch, GradFn, Hvp, Params, Products, is_compiling

#: What torch says of a product of two precisions, one of them autocast's.
_MIXED = re.compile(
    "(BFloat16|Half).*(same dtype|be the same)|(same dtype|scalar type).*(BFloat16|Half)", re.S
)


def in_words(lacking: str, other: str = "") -> Callable[[Hvp], Hvp]:
    """Say what to do when a kernel lacks a derivative (in eager: dynamo raises its own error)."""

    instead = f"; for other losses try hvp={other}, exact as well" if other else ""

    def translated(hvp: Hvp) -> Hvp:
        @functools.wraps(hvp)
        def explained(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
            if is_compiling():
                return hvp(grad_fn, params, batch, v)
            try:
                return hvp(grad_fn, params, batch, v)
            except (NotImplementedError, RuntimeError) as error:
                if _MIXED.search(str(error)):
                    raise NotImplementedError(
                        "under autocast, torch's forward mode gives float32 tangents to what "
                        "BatchNorm returns in bfloat16, and the next layer refuses the mixture; "
                        f"take hvp=reverse_over_reverse, exact as well (torch: {error})"
                    ) from error
                if "_weight_norm" in str(error):
                    raise NotImplementedError(
                        "torch's fused weight norm has no forward mode, and its second backward "
                        "pass is wrong; functionalize(module, criterion) writes it out, as does "
                        "adatune_func.write_out_weight_norm(module) for a loss_fn of your own "
                        f"(torch: {error})"
                    ) from error
                if "ZeroTensors" in str(error):
                    raise NotImplementedError(
                        "torch's forward mode fails inside the mean of F.mse_loss "
                        "(pytorch#123996); write F.mse_loss(output, target, reduction='none')"
                        ".mean(), as functionalize does for you"
                    ) from error
                if "forward AD" not in str(error) and "derivative for" not in str(error):
                    raise
                raise NotImplementedError(
                    f"the loss uses an operation without {lacking}; where it chooses a kernel of "
                    "attention itself, leave that out: exact products choose one that has it. Or "
                    "take hvp=finite_difference(), which needs gradients only"
                    f"{instead} (torch: {error})"
                ) from error

        return explained

    return translated
