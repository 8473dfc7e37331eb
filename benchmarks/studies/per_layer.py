"""A learning rate for each layer of VGG-11 on CIFAR-10, beside one for all.

    python -m benchmarks.studies.per_layer --data data

One group a convolution, one for the classifier, one for all BatchNorms. The ten tangents share one
Hessian-vector product (``shared_product``), not the passes of the optimizer over them. Both runs
see the same batches from the same start. Reported: the training loss of the last tenth of the
steps, loss and accuracy on held-out validation images, where each lr went, seconds a step. Eager.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.func import functional_call

import adatune_func as atf
from adatune_func import data, networks
from benchmarks.run import record

METHODS = ("one", "per layer")


def groups(params: dict[str, torch.Tensor], lr: float) -> dict[str, float]:
    """Each convolution and the classifier by name; ``""`` is what is left, the BatchNorms."""
    layers = [name.removesuffix(".weight") for name, w in params.items() if w.dim() > 1]
    return {**dict.fromkeys(layers, lr), "": lr}


@torch.no_grad()
def held_out(module: Any, state: atf.TunerState, images: data.ImageData) -> tuple[float, float]:
    """Loss and accuracy in per cent on the first thousand validation images, in train mode."""
    x = data.normalize(images.validation.images[:1000], images.mean, images.std)
    labels = images.validation.labels[:1000]
    # A run as short as this one leaves the running statistics behind: those of the batch.
    logits = functional_call(module.train(), {**state.params, **state.buffers}, (x,))
    accuracy = 100 * (logits.argmax(1) == labels).float().mean()
    return float(F.cross_entropy(logits, labels)), float(accuracy)


def run(method: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    images = data.load("cifar_10", arguments.data)
    torch.manual_seed(seed)
    module = networks.VGG(width=arguments.width)
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    lr = arguments.lr
    hparams: dict[str, Any] = {"lr": lr if method == "one" else groups(params, lr)}
    optimizer, hvp = atf.sgd(momentum=0.9, weight_decay=5e-4), atf.exact
    if method == "per layer":
        optimizer, hvp = atf.by_prefix(optimizer), atf.shared_product(hvp, hparams)
    tuner = atf.marthe(loss_fn, optimizer, hvp=hvp)
    state = tuner.init(params, hparams, buffers)
    pairs = zip(
        data.train_batches(images, arguments.batch_size, seed=seed),
        data.validation_batches(images, arguments.batch_size, seed=seed),
        strict=False,
    )
    losses, seconds, refused = [], [], 0
    for batch, val_batch in islice(pairs, arguments.steps):
        began = time.perf_counter()
        state, info = tuner.step(state, batch, val_batch)
        seconds.append(time.perf_counter() - began)
        losses.append(float(info.loss))
        refused += int(not info.accepted)
    loss, accuracy = held_out(module, state, images)
    rates = {"all": state.hparams["lr"]} if method == "one" else state.hparams["lr"]
    return {
        **{"width": arguments.width, "method": method, "seed": seed, "start_lr": lr},
        "steps": arguments.steps,
        "training_loss": statistics.fmean(losses[-max(arguments.steps // 10, 1) :]),
        **{"validation_loss": loss, "validation_accuracy": accuracy, "refused": refused},
        "seconds": statistics.median(seconds),
        "lr": {name: float(rate) for name, rate in rates.items()},
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="channels of the first layer")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default="data", help="folder of the data sets")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "per_layer.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        for method in METHODS:
            row = run(method, seed, arguments)
            origin = record.provenance(vars(arguments))
            record.merge(arguments.output, [row], ("width", "method", "seed", "start_lr"), origin)
            shown = [name for name in row if name != "lr"]
            print(record.table([row], shown), row["lr"], flush=True)


if __name__ == "__main__":
    main()
