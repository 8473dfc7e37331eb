"""The table of losses: every class and function of torch, with its usual options."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entries import spell


class Loss(NamedTuple):
    """A criterion, what the model does before it, and a target drawn at random."""

    name: str
    build: Callable[[], Callable[..., Any]]
    model: Callable[[Tensor], Any]
    shape: tuple[int, ...]  # of the model's input
    target: Callable[[], Any]
    #: ``call(criterion, output, target)``, where it is not simply ``criterion(output, target)``
    call: Callable[..., Tensor] | None


ROWS = (5, 4)


def real(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape, dtype=torch.float64)


def unit(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(shape, dtype=torch.float64)


def classes(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, 4, shape)


def signs(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, 2, shape, dtype=torch.float64) * 2 - 1


def counts(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, 5, shape, dtype=torch.float64)


def shares() -> Tensor:
    return torch.randn(ROWS, dtype=torch.float64).softmax(1)


def log_shares() -> Tensor:
    return torch.randn(ROWS, dtype=torch.float64).log_softmax(1)


def same(x: Tensor) -> Tensor:
    return x


def with_variance(x: Tensor) -> tuple[Tensor, ...]:
    return x, (0.5 * x.flip(0)).exp()


def two(x: Tensor) -> tuple[Tensor, ...]:
    return x, x.flip(0).sin()


def log_softmax(x: Tensor) -> Tensor:
    return x.log_softmax(1)


def log_softmax_last(x: Tensor) -> Tensor:
    return x.log_softmax(-1)


def weights(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss(
    kind: Any,
    target: Callable[[], Any],
    *args: Any,
    model: Callable[[Tensor], Any] = same,
    shape: tuple[int, ...] = ROWS,
    call: Callable[..., Tensor] | None = None,
    words: str = "",
    **kwargs: Any,
) -> Loss:
    """A module's class, or a function of torch.nn.functional with its keywords bound."""

    def build() -> Callable[..., Any]:
        if isinstance(kind, type):
            return kind(*args, **kwargs)
        return functools.partial(kind, **kwargs) if kwargs else kind

    name = f"{spell(kind, args, kwargs)} {words}".strip()
    call = averaged if kwargs.get("reduction") == "none" else call
    return Loss(name, build, model, shape, target, call)


def averaged(criterion: Callable[..., Tensor], output: Tensor, target: Any) -> Tensor:
    return criterion(output, target).mean()


def of_both(criterion: Callable[..., Tensor], outputs: tuple[Tensor, ...], target: Any) -> Tensor:
    return criterion(*outputs, target)


def of_mean_and_variance(
    criterion: Callable[..., Tensor], outputs: tuple[Tensor, ...], target: Any
) -> Tensor:
    return criterion(outputs[0], target, outputs[1])


def of_sequences(criterion: Callable[..., Tensor], output: Tensor, target: Any) -> Tensor:
    return criterion(output, *target)


def both(kind: Any, function: Any, target: Any, **kwargs: Any) -> list[Loss]:
    return [loss(kind, target, **kwargs), loss(function, target, **kwargs)]


def reductions(kind: Any, function: Any, target: Any, **kwargs: Any) -> list[Loss]:
    """The module by default, the function with each reduction."""
    each = [loss(function, target, reduction=word, **kwargs) for word in ("mean", "sum", "none")]
    return [loss(kind, target, **kwargs), loss(function, target, **kwargs), *each]


class LossOfAdaptiveLogSoftmax(nn.AdaptiveLogSoftmaxWithLoss):
    """AdaptiveLogSoftmaxWithLoss without the outputs that it returns beside its loss."""

    def forward(self, input_: Tensor, target_: Tensor) -> Any:
        return super().forward(input_, target_).loss


def sequences() -> tuple[Tensor, ...]:
    """Targets, lengths of inputs and of targets, for CTC."""
    return torch.randint(1, 4, (3, 2)), torch.tensor([6, 5, 6]), torch.tensor([2, 1, 2])


REGRESSION = [
    *reductions(nn.MSELoss, F.mse_loss, real(*ROWS)),
    loss(F.mse_loss, real(*ROWS), weight=torch.full(ROWS, 0.3, dtype=torch.float64)),
    *reductions(nn.L1Loss, F.l1_loss, real(*ROWS)),
    *reductions(nn.SmoothL1Loss, F.smooth_l1_loss, real(*ROWS)),
    loss(nn.SmoothL1Loss, real(*ROWS), beta=0.5),
    loss(nn.SmoothL1Loss, real(*ROWS), beta=0.0),
    *reductions(nn.HuberLoss, F.huber_loss, real(*ROWS)),
    loss(nn.HuberLoss, real(*ROWS), delta=0.5),
    *both(nn.PoissonNLLLoss, F.poisson_nll_loss, counts(*ROWS)),
    loss(nn.PoissonNLLLoss, counts(*ROWS), log_input=False, model=F.softplus),
    loss(nn.PoissonNLLLoss, counts(*ROWS), full=True),
    *both(
        nn.GaussianNLLLoss,
        F.gaussian_nll_loss,
        real(*ROWS),
        model=with_variance,
        call=of_mean_and_variance,
    ),
    loss(
        nn.GaussianNLLLoss, real(*ROWS), full=True, model=with_variance, call=of_mean_and_variance
    ),
]

CLASSES = [
    *reductions(nn.CrossEntropyLoss, F.cross_entropy, classes(5)),
    loss(nn.CrossEntropyLoss, classes(5), weight=weights(0.1, 1, 2, 3)),
    loss(nn.CrossEntropyLoss, classes(5), ignore_index=1),
    loss(nn.CrossEntropyLoss, classes(5), label_smoothing=0.1),
    loss(nn.CrossEntropyLoss, shares, words="of probabilities"),
    loss(F.cross_entropy, classes(2, 3, 3), shape=(2, 4, 3, 3), words="of images"),
    *both(nn.NLLLoss, F.nll_loss, classes(5), model=log_softmax),
    loss(nn.NLLLoss, classes(5), weight=weights(0.1, 1, 2, 3), model=log_softmax),
    loss(nn.NLLLoss, classes(2, 3, 3), shape=(2, 4, 3, 3), model=log_softmax, words="of images"),
    loss(nn.NLLLoss2d, classes(2, 3, 3), shape=(2, 4, 3, 3), model=log_softmax),
    *both(nn.KLDivLoss, F.kl_div, shares, reduction="batchmean", model=log_softmax),
    loss(F.kl_div, shares, model=log_softmax),
    loss(nn.KLDivLoss, log_shares, reduction="batchmean", log_target=True, model=log_softmax),
    *reductions(nn.BCELoss, F.binary_cross_entropy, unit(*ROWS), model=torch.sigmoid),
    loss(nn.BCELoss, unit(*ROWS), weight=weights(0.1, 1, 2, 3), model=torch.sigmoid),
    *reductions(nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, unit(*ROWS)),
    loss(nn.BCEWithLogitsLoss, unit(*ROWS), pos_weight=weights(0.1, 1, 2, 3)),
    *both(nn.SoftMarginLoss, F.soft_margin_loss, signs(*ROWS)),
    *both(nn.MultiMarginLoss, F.multi_margin_loss, classes(5)),
    loss(nn.MultiMarginLoss, classes(5), p=2),
    loss(nn.MultiMarginLoss, classes(5), weight=weights(0.1, 1, 2, 3)),
    *both(nn.MultiLabelMarginLoss, F.multilabel_margin_loss, classes(*ROWS)),
    *both(
        nn.MultiLabelSoftMarginLoss,
        F.multilabel_soft_margin_loss,
        lambda: torch.randint(0, 2, ROWS).double(),
    ),
    loss(LossOfAdaptiveLogSoftmax, classes(5), 4, 6, [2, 4]),
    loss(nn.LinearCrossEntropyLoss, classes(5), 4, 6),
]

PAIRS = [
    *both(nn.HingeEmbeddingLoss, F.hinge_embedding_loss, signs(*ROWS)),
    *both(nn.CosineEmbeddingLoss, F.cosine_embedding_loss, signs(5), model=two, call=of_both),
    loss(nn.CosineEmbeddingLoss, signs(5), margin=0.3, model=two, call=of_both),
    *both(nn.MarginRankingLoss, F.margin_ranking_loss, signs(*ROWS), model=two, call=of_both),
    *both(nn.TripletMarginLoss, F.triplet_margin_loss, real(*ROWS), model=two, call=of_both),
    loss(nn.TripletMarginLoss, real(*ROWS), p=1, swap=True, model=two, call=of_both),
    *both(
        nn.TripletMarginWithDistanceLoss,
        F.triplet_margin_with_distance_loss,
        real(*ROWS),
        model=two,
        call=of_both,
    ),
    *both(
        nn.CTCLoss,
        F.ctc_loss,
        sequences,
        shape=(6, 3, 4),
        model=log_softmax_last,
        call=of_sequences,
    ),
    loss(
        nn.CTCLoss,
        sequences,
        zero_infinity=True,
        shape=(6, 3, 4),
        model=log_softmax_last,
        call=of_sequences,
    ),
]

LOSSES = REGRESSION + CLASSES + PAIRS
