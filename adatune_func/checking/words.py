"""What the numbers mean, in words."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..curvature import forward_over_reverse, own_hparams, reverse_over_reverse
from .hessian import evidence
from .parts import PartCheck
from .run import Moment, Run

_INSTEAD = "take hvp=finite_difference(central=True), which sees training as it is"


def tolerance(run: Run) -> float:
    """A relative error that is no rounding: 1e-4 in float64, 2e-2 where something is float32."""
    return max(1e-4, 60 * run.unit**0.5)


def explained(
    run: Run, k: int, name: str, parts: Sequence[PartCheck], moments: Sequence[Moment]
) -> list[str]:
    """One sentence for each part that is off: by how much, against what, and what to do."""
    says = {"product": _product, "optimizer": _optimizer, "outer gradient": _outer}
    return [
        says.get(check.part, _buffers)(run, k, name, check, moments)
        for check in parts
        if check.relative_error > tolerance(run)
    ]


def _product(run: Run, k: int, name: str, check: PartCheck, moments: Sequence[Moment]) -> str:
    head = (
        f"the product H Z of {name} is {_much(check)} against differences of the gradient along Z, "
        f"most in {check.leaf}, at step {check.step}"
    )
    if check.relative_error == torch.inf:
        return f"{head}: a sqrt, norm, power or division at 0 in the loss; {_INSTEAD}"
    if name.partition(".")[0] in own_hparams(run.loss_fn):
        return (
            f"{head} and along {name} itself: a number made of it by float(), .item() or detach "
            "has no derivative, so keep it a tensor; or the loss has a kink there, or this hvp "
            "approximates"
        )
    seen, limit = evidence(run, k, check.step, moments[check.step]), tolerance(run)
    why = [f"the gradient is no slope of the loss ({seen.slope:.0e} off)"] * (seen.slope > limit)
    if seen.asymmetry > limit:
        why.append(f"the gradient's derivative is not symmetric ({seen.asymmetry:.0e} off)")
    if why:
        return (
            f"{head}; {' and '.join(why)}: a detach, .item(), no_grad or straight-through "
            f"estimator in the loss, where no second derivative is right; {_INSTEAD}"
        )
    if run.hvp in (forward_over_reverse, reverse_over_reverse):
        return (
            f"{head}; the gradient is the slope of the loss and its derivative symmetric, so a "
            f"layer's second derivative is wrong there (or it has a kink); {_INSTEAD}"
        )
    return f"{head}; this hvp approximates H and that is how far; hvp=exact does not"


def _optimizer(run: Run, k: int, name: str, check: PartCheck, moments: Sequence[Moment]) -> str:
    maker = getattr(run.optimizer.update, "__qualname__", "optimizer").split(".")[0]
    head = (
        f"the optimizer's tangent of {name} ({maker}) is {_much(check)} against differences of its "
        f"update, most in {check.leaf}, at step {check.step}"
    )
    if check.relative_error == torch.inf:
        return (
            f"{head}: a sqrt, norm, power or division at 0, whose derivative is inf or NaN; take "
            "adatune_func.safe_sqrt in place of sqrt. In training this column of Z is reset at "
            "each such step"
        )
    return f"{head}: something in its update is detached, rounded, or has a wrong derivative"


def _outer(run: Run, k: int, name: str, check: PartCheck, moments: Sequence[Moment]) -> str:
    return (
        f"the outer gradient along Z of {name} is {_much(check)} against differences of the outer "
        "loss: something in it is detached, so h is no derivative of that loss; give another "
        "val_loss_fn"
    )


def _buffers(run: Run, k: int, name: str, check: PartCheck, moments: Sequence[Moment]) -> str:
    return (
        f"the path through the buffers, which Z leaves out, is {100 * check.relative_error:.2g} % "
        f"of the derivative along {name} by differences: the loss reads buffers that training "
        "moves (running statistics in eval mode, an average of activations); take an outer loss in "
        "train mode"
    )


def _much(check: PartCheck) -> str:
    if check.relative_error == torch.inf:
        return "not finite"
    return f"{100 * check.relative_error:.2g} % off"
