"""All six families train a few MARTHE steps on their real data sets, eager and compiled.

    python -m benchmarks.studies.families --data data

At reduced depth and width, because a CPU compiles for minutes what it runs in seconds. The learning
rate is tuned by the default rule; both modes see the same batches, and reported is how far apart
they end: the relative difference of lr and of the training loss. In float32 BatchNorm over few
numbers amplifies rounding; in float64 the tests hold both modes to 1e-8. Rows are merged, so the
grid may be run in parts.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func import data, networks
from benchmarks.run import record

#: family -> (data set, reduced network)
FAMILIES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "mlp": ("mnist", networks.MLP),
    "lenet": ("mnist", networks.LeNet),
    "vgg": ("cifar_10", lambda: networks.VGG((1, 1, 1, 1, 1), width=8)),
    "resnet": ("cifar_10", lambda: networks.ResNet((1, 1), base_width=8)),
    "wide_resnet": ("cifar_10", lambda: networks.WideResNet(10, 1, base_width=8)),
    "densenet": ("cifar_10", lambda: networks.DenseNet(10, 12)),
}

#: optimizer and the lr it starts from
OPTIMIZERS = {
    "sgd": (atf.sgd(momentum=0.9, weight_decay=5e-4), 0.01),
    "adam": (atf.adam(eps=1e-4, weight_decay=5e-4), 1e-3),
}

COLUMNS = ["family", "data", "optimizer", "mode", "first_loss", "last_loss", "lr", "accepted"]


def run(family: str, optimizer: str, mode: str, arguments: argparse.Namespace) -> dict[str, Any]:
    dataset, build = FAMILIES[family]
    images = data.load(dataset, arguments.data)
    torch.manual_seed(0)
    loss_fn, params, buffers = atf.functionalize(build(), F.cross_entropy)
    chosen, lr = OPTIMIZERS[optimizer]
    tuner = atf.marthe(loss_fn, chosen)
    step = atf.jit(tuner.step) if mode == "compiled" else tuner.step
    state = tuner.init(params, {"lr": lr}, buffers)
    pairs = zip(
        data.train_batches(images, arguments.batch_size, seed=0),
        data.validation_batches(images, arguments.batch_size, seed=1),
        strict=False,
    )
    began, losses, accepted = time.perf_counter(), [], 0
    for batch, val_batch in itertools.islice(pairs, arguments.steps):
        state, info = step(state, batch, val_batch)
        losses.append(float(info.loss))
        accepted += int(info.accepted)
    return {
        **{"family": family, "data": dataset, "optimizer": optimizer, "mode": mode},
        **{"first_loss": losses[0], "last_loss": losses[-1], "start_lr": lr},
        **{"lr": float(state.hparams["lr"]), "accepted": accepted, "steps": arguments.steps},
        "parameters": sum(w.numel() for w in params.values()),
        "seconds": round(time.perf_counter() - began, 1),
    }


def apart(eager: dict[str, Any], compiled: dict[str, Any]) -> dict[str, float]:
    return {
        f"{key}_apart": abs(compiled[key] - eager[key]) / abs(eager[key])
        for key in ("lr", "last_loss")
    }


@torch._dynamo.config.patch(recompile_limit=64)  # each case is a graph of its own
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default="data", help="folder of the data sets")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "families.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    for family, optimizer in itertools.product(arguments.families, OPTIMIZERS):
        eager, compiled = (run(family, optimizer, m, arguments) for m in ("eager", "compiled"))
        rows = [eager, {**compiled, **apart(eager, compiled)}]
        origin = record.provenance(vars(arguments))
        record.merge(arguments.output, rows, ("family", "optimizer", "mode"), origin)
        print(record.table(rows, [*COLUMNS, "lr_apart", "last_loss_apart", "seconds"]), flush=True)


if __name__ == "__main__":
    main()
