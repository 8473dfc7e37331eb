"""What a run trains: a network and its data, here image sets, checked before training, judged."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func import data as image_data
from adatune_func import networks
from adatune_func.data import ImageData, Split
from benchmarks.run import ranks


class Score(NamedTuple):
    """How good a model is on a part of the data."""

    accuracy: float
    loss: float


class Kind(NamedTuple):
    """What the loop has to know of a kind of data; ``part`` is train, validation or test."""

    batches: Callable[[Job, argparse.Namespace, str, int], Iterator[Any]]  # of a part, from step t
    evaluate: Callable[[Job, atf.TunerState, str], Score]  # on a part
    better: Callable[[Score, Score], bool]  # than the best so far
    says: Callable[[Score], str]
    leaves: Callable[[Job, argparse.Namespace, Path], None]  # what else, of ``job.module`` at best


class Job(NamedTuple):
    """What a run trains: the data, the network as pure functions, and how long."""

    data: Any  # of its kind: ImageData, Text
    module: nn.Module
    model: atf.Functional
    device: torch.device
    steps_per_epoch: int
    steps: int
    kind: Kind


def prepare(args: argparse.Namespace) -> Job:
    """Images and network on their device, everything checked that can be before training."""
    device = device_of(args)
    data = image_data.load(args.dataset, args.data_root, device=device)
    channels, size = data.train.images.shape[1:3]
    torch.manual_seed(args.seed)
    module = networks.network(
        args.network, num_classes=data.num_classes, in_channels=channels, image_size=size
    ).to(device)
    smaller = min(len(data.train.labels), len(data.validation.labels))
    if args.batch_size > smaller:
        raise ValueError(f"--batch-size {args.batch_size} exceeds the {smaller} images of a split")
    steps_per_epoch = len(data.train.labels) // args.batch_size
    steps = steps_per_epoch * args.num_epoch
    model = atf.functionalize(module, F.cross_entropy)
    check_fit(args, model, data)
    return Job(
        data=data,
        module=module,
        model=model,
        device=device,
        steps_per_epoch=steps_per_epoch,
        steps=min(steps, args.max_steps or steps),
        kind=IMAGES,
    )


def device_of(args: argparse.Namespace) -> torch.device:
    """The device that ``--device`` names."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no CUDA device here; take --device cpu")
    cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    # with its number, which of several ranks' devices it is
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def check_fit(args: argparse.Namespace, model: atf.Functional, data: ImageData) -> None:
    """Raise ValueError unless the network takes such batches: a pass over shapes, no numbers."""
    shape = (args.batch_size, *data.train.images.shape[1:])
    params, buffers = (
        {name: leaf.to("meta") for name, leaf in part.items()} for part in (model[1], model[2])
    )
    batch = torch.empty(shape, device="meta"), torch.zeros(shape[:1], device="meta").long()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.loss_fn(params, buffers, batch)
    except (RuntimeError, ValueError) as error:
        size = " x ".join(map(str, shape[1:]))
        raise ValueError(
            f"--network {args.network} does not take batches of {shape[0]} images of {size} "
            f"({str(error).splitlines()[0]})"
        ) from None


def at_average(job: Job, batch_size: int, state: atf.TunerState) -> atf.TunerState:
    """The average of the weights, with BatchNorm's statistics there: 50 batches tell them."""
    batches = (
        (image_data.normalize(images, job.data.mean, job.data.std), labels)
        for images, labels in image_data.in_order(job.data.train, batch_size)
        if len(labels) == batch_size
    )
    with torch.random.fork_rng(devices=[]):  # training draws as if nobody had looked
        some = itertools.islice(batches, 50)
        return atf.recalibrate(job.model.loss_fn, atf.averages(state), some)


def evaluate(job: Job, state: Any, split: Split) -> Score:
    """Accuracy and mean loss on a whole split, running statistics and no dropout."""
    module = job.module.eval()
    atf.write_back(module, state)
    correct, total = torch.zeros((), device=job.device), torch.zeros((), device=job.device)
    mine = itertools.islice(image_data.in_order(split, 500), ranks.rank(), None, ranks.count())
    with torch.no_grad():
        for images, labels in mine:
            logits = module(image_data.normalize(images, job.data.mean, job.data.std))
            correct += (logits.argmax(1) == labels).sum()
            total += F.cross_entropy(logits, labels, reduction="sum")
    size = len(split.labels)
    correct, total = ranks.total(torch.stack([correct, total])).tolist()
    return Score(correct / size, total / size)


def batches(job: Job, args: argparse.Namespace, part: str, start: int) -> Iterator[Any]:
    """Batches of a part from step ``start`` on."""
    draw = image_data.train_batches if part == "train" else image_data.validation_batches
    return draw(job.data, args.batch_size, seed=args.seed, start=start)


#: Images are judged by accuracy.
IMAGES = Kind(
    batches=batches,
    evaluate=lambda job, state, part: evaluate(job, state, getattr(job.data, part)),
    better=lambda score, best: score.accuracy >= best.accuracy,  # of equals the longer trained
    says=lambda score: f"accuracy {100 * score.accuracy:.2f} %",
    leaves=lambda job, args, folder: None,
)
