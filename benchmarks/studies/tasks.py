"""The small tasks on which methods are compared, and how well a trained model does on one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import adatune_func as atf
from adatune_func import data, networks
from benchmarks.studies.models import MODELS


class Outcome(NamedTuple):
    model: nn.Module
    last_lr: float
    refused: int
    path: list[float]  # of lr, at each tenth of the run


class Task(NamedTuple):
    images: str
    network: Callable[[], nn.Module]
    batch_size: int
    epochs: int


TASKS = {
    "digits_mlp": Task("digits", lambda: networks.MLP((64,)), 32, 15),
    "digits": Task("digits", lambda: networks.LeNet((6, 16)), 32, 15),
    "mnist": Task("mnist", lambda: networks.MLP((256, 128)), 128, 3),
    "cifar_10": Task("cifar_10", MODELS["conv"].build, 128, 5),
}

OPTIMIZERS = {"sgd": atf.sgd(momentum=0.9), "adamw": atf.adamw()}


def pairs_of(images: data.ImageData, batch_size: int, seed: int) -> Iterable[Any]:
    """(training batch, validation batch) without end; not all methods look at the second."""
    validation = data.validation_batches(images, batch_size, seed=seed)
    return zip(data.train_batches(images, batch_size, seed=seed), validation, strict=True)


@torch.no_grad()
def evaluate(model: nn.Module, images: data.ImageData) -> dict[str, float]:
    """Accuracy in percent and mean loss on the test images, in eval mode."""
    params = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    model.eval()
    outputs: list[Tensor] = [
        functional_call(model, params, (data.normalize(x, images.mean, images.std),))
        for x, _ in data.in_order(images.test, 500)
    ]
    logits, labels = torch.cat(outputs)[:, : images.num_classes], images.test.labels
    accuracy = 100 * float((logits.argmax(1) == labels).float().mean())
    return {"accuracy": accuracy, "loss": float(F.cross_entropy(logits, labels))}
