"""What the study of hyperparameters inside the loss trains: data, losses, grids and starts.

Each case is MNIST made harder than it is, an MLP large enough to learn the faults by heart, and a
loss with hyperparameters that may help:

    bootstrap     40 % wrong labels;  trust · CE(label) + (1 - trust) · entropy of the output
    smoothing     40 % wrong labels;  (1 - s) · CE(label) + s · CE(uniform)
    tasks         40 % wrong labels;  (1 - c) · CE(digit) + c · CE(pair of digits), never wrong
    mixup         1,000 images;       each mixed with up to a share of another, as their labels are
    imbalance     1,000 images of class 0, 0.6 times as many of each next; a weight per class
    power         the same images;    weights n^-power, one number for all
    correction    40 % wrong labels;  -log((1 - s) · p(label) + s / 10), 4/9 is what was done
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adatune_func as atf
from adatune_func import data

Criterion = Callable[..., Tensor]
RATIO = 0.6


def bootstrap(output: Tensor, target: Tensor, trust: Any = 1.0) -> Tensor:
    """The target is ``trust · label + (1 - trust) · output``: Reed et al., arXiv 1412.6596."""
    logp = F.log_softmax(output, 1)
    entropy = -(logp.exp() * logp).sum(1).mean()
    return trust * F.nll_loss(logp, target) + (1 - trust) * entropy


def smoothing(output: Tensor, target: Tensor, share: Any = 0.0) -> Tensor:
    """The target is ``(1 - share) · label + share · uniform``."""
    logp = F.log_softmax(output, 1)
    return (1 - share) * F.nll_loss(logp, target) - share * logp.mean()


def correction(output: Tensor, target: Tensor, share: Any = 0.0) -> Tensor:
    """Labels are drawn anew with probability ``share``: Patrini et al. 2017 (arXiv 1609.03683)."""
    p = F.softmax(output, 1).gather(1, target[:, None])
    return -torch.log((1 - share) * p + share / output.shape[1]).mean()


def fine_and_coarse(output: Tensor, target: Tensor, coarse: Any = 0.0) -> Tensor:
    """``(1 - coarse) · CE(digit) + coarse · CE(pair of digits)``, a column of ``target`` each."""
    digit, pair = target.unbind(1)
    logp = F.log_softmax(output, 1)
    of_pairs = logp.unflatten(1, (5, 2)).logsumexp(2)
    return (1 - coarse) * F.nll_loss(logp, digit) + coarse * F.nll_loss(of_pairs, pair)


def balanced(output: Tensor, target: Tensor, power: Any = 0.0) -> Tensor:
    """Cross-entropy with class weights ``n^-power``."""
    counts = RATIO ** torch.arange(10, dtype=output.dtype)
    return F.cross_entropy(output, target, counts**-power)


def calibrated(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy at the best temperature: how sure the outputs are does not count.

    After Guo et al. 2017 (arXiv 1706.04599). By the envelope theorem its gradient is that at the
    temperature found.
    """
    scales = 2.0 ** torch.arange(-2, 5.5, 0.5, dtype=output.dtype)
    return torch.stack([F.cross_entropy(scale * output, target) for scale in scales]).amin()


def mixup(model: nn.Module) -> atf.Loss:
    """Zhang et al. 2018 (arXiv 1710.09412), with shares spread evenly over [0, strength / 2].

    Each image meets its neighbour in the batch, which is a random one.
    """

    def of_both(output: Tensor, target: Any) -> Tensor:
        label, other, share = target
        one, two = (F.cross_entropy(output, y, reduction="none") for y in (label, other))
        return ((1 - share) * one + share * two).mean()

    plain, _, _ = atf.functionalize(model, F.cross_entropy)
    mixed, _, _ = atf.functionalize(model, of_both)

    def fn(params: Any, buffers: Any, batch: Any, hparams: Mapping[str, Any]) -> Any:
        images, labels = batch
        share = hparams["strength"] * torch.linspace(0, 0.5, len(labels))
        spread = share[:, None, None, None]
        images = (1 - spread) * images + spread * images.roll(1, 0)
        return mixed(params, buffers, (images, (labels, labels.roll(1), share)))

    return atf.Loss(fn, {"strength": 0.0}, plain, {"strength": (0.0, 1.0)})


def of(criterion: Criterion, hparams: dict[str, Any], **domains: tuple[float, float]) -> Any:
    """``loss(model)`` of a criterion."""
    return lambda model: atf.functionalize(model, criterion, hparams=hparams, domains=domains)[0]


def first(images: data.ImageData, count: int) -> data.ImageData:
    return images._replace(train=data.Split(*(part[:count] for part in images.train)))


def mislabeled(images: data.ImageData, seed: int, share: float = 0.4) -> data.ImageData:
    """A share of the training labels is one of the other classes."""
    generator = torch.Generator().manual_seed(seed)
    labels, count = images.train.labels, len(images.train.labels)
    wrong = torch.rand(count, generator=generator) < share
    other = torch.randint(1, images.num_classes, (count,), generator=generator)
    labels = torch.where(wrong, (labels + other) % images.num_classes, labels)
    return images._replace(train=images.train._replace(labels=labels))


def with_pairs(images: data.ImageData, seed: int) -> data.ImageData:
    """Labels are ``(digit, pair)``, 0 and 1 the first pair; the pair is never wrong."""
    wrong = mislabeled(images, seed).train.labels
    train, validation = (
        split._replace(labels=torch.stack([digits, split.labels // 2], 1))
        for split, digits in (
            (images.train, wrong),
            (images.validation, images.validation.labels),
        )
    )
    return images._replace(train=train, validation=validation)


def imbalanced(images: data.ImageData, ratio: float = RATIO) -> data.ImageData:
    """The first ``1000 · ratio^c`` training images of class c."""
    labels = images.train.labels
    kept = [torch.where(labels == c)[0][: round(1000 * ratio**c)] for c in range(10)]
    return images._replace(train=data.Split(*(part[torch.cat(kept)] for part in images.train)))


def weights(power: float, ratio: float = RATIO) -> dict[str, Any]:
    """``n_c^-power`` for the numbers above, with mean 1."""
    values = torch.tensor([ratio ** (-power * c) for c in range(10)])
    return {"weight": tuple(float(v) for v in values / values.mean())}


class Case(NamedTuple):
    """One loss on one set of images.

    Attributes:
        images: ``images(clean, seed)``: what is trained on, and by what validation judges.
        loss: of a model.
        judge: the outer criterion, ``judge(output, target)``.
        grid: constant values by name, the neutral ones first.
        starts: of tuned runs, by name.
        epochs: of training.
        step: of the rule; a third where each number sees the few images of one class.
    """

    images: Callable[[data.ImageData, int], data.ImageData]
    loss: Callable[[nn.Module], atf.Loss]
    judge: Criterion
    grid: dict[str, dict[str, Any]]
    starts: dict[str, dict[str, Any]]
    epochs: int = 15
    step: float = 0.1


def each(name: str, *values: float) -> dict[str, dict[str, Any]]:
    return {f"{value:g}": {name: value} for value in values}


def noisy(images: data.ImageData, seed: int) -> data.ImageData:
    return mislabeled(first(images, 4000), seed)


CASES = {
    "bootstrap": Case(
        noisy,
        of(bootstrap, {"trust": 1.0}, trust=(0.0, 1.0)),
        F.cross_entropy,
        each("trust", 1.0, 0.8, 0.6, 0.4, 0.3, 0.2),
        each("trust", 0.99, 0.5, 0.1),
    ),
    "smoothing": Case(
        noisy,
        of(smoothing, {"share": 0.0}, share=(0.0, 1.0)),
        calibrated,
        each("share", 0.0, 0.3, 0.6, 0.8, 0.9, 0.95),
        each("share", 0.01, 0.5, 0.9),
    ),
    "tasks": Case(
        lambda images, seed: with_pairs(first(images, 4000), seed),
        of(fine_and_coarse, {"coarse": 0.5}, coarse=(0.0, 1.0)),
        lambda output, target: F.cross_entropy(output, target[:, 0]),
        each("coarse", 0.5, 0.0, 0.3, 0.7, 0.9, 0.97),
        each("coarse", 0.5, 0.01, 0.97),
    ),
    "mixup": Case(
        lambda images, seed: first(images, 1000),
        mixup,
        F.cross_entropy,
        each("strength", 0.0, 0.1, 0.3, 0.6, 1.0),
        each("strength", 0.01, 0.5, 0.99),
        epochs=65,
    ),
    "imbalance": Case(
        lambda images, seed: imbalanced(images),
        of(F.cross_entropy, {"weight": torch.ones(10)}),
        F.cross_entropy,
        {"1": weights(0.0), "n^-1/2": weights(0.5), "1/n": weights(1.0), "n^-3/2": weights(1.5)},
        {"1": weights(0.0), "1/n": weights(1.0)},
        epochs=25,
        step=0.03,
    ),
    "power": Case(
        lambda images, seed: imbalanced(images),
        of(balanced, {"power": 0.0}, power=(-math.inf, math.inf)),
        F.cross_entropy,
        each("power", 0.0, 0.25, 0.5, 0.75, 1.0, 1.5),
        each("power", 0.0, 1.0),
        epochs=25,
    ),
    "correction": Case(
        noisy,
        of(correction, {"share": 0.0}, share=(0.0, 1.0)),
        F.cross_entropy,
        each("share", 0.0, 0.2, 0.4, 0.5, 0.6, 0.8),
        each("share", 0.01, 0.5, 0.9),
    ),
}
