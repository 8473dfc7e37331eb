"""What the input pipeline costs: the next batch over a plain training step on it.

    python benchmarks/studies/pipeline.py --data-root data          # VGG-11 on CIFAR-10, batch 128

Times the augmented training batch and the validation batch beside a step of plain SGD with
momentum, alternately, so that load on the machine falls on all alike; medians go to
results/pipeline.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import adatune_func as atf
from adatune_func import data as image_data
from adatune_func import networks
from benchmarks.run import record

#: Share of the step that is still nothing.
GOAL = 0.03


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Result and seconds, the device's own work included."""
    began = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Medians in milliseconds, and the pipeline's share."""
    device = torch.device(args.device)
    data = image_data.load(args.dataset, args.data_root, device=device)
    channels, size = data.train.images.shape[1:3]
    module = networks.network(
        args.network, num_classes=data.num_classes, in_channels=channels, image_size=size
    ).to(device)
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    tuner = atf.plain(loss_fn, atf.sgd(lr=0.01, momentum=0.9, weight_decay=5e-4))
    state = tuner.init(params, buffers=buffers)
    step = atf.jit(tuner.step) if args.compile else tuner.step
    train = image_data.train_batches(data, args.batch_size, seed=0)
    validation = image_data.validation_batches(data, args.batch_size, seed=0)
    times: dict[str, list[float]] = {"train_batch": [], "validation_batch": [], "step": []}
    for repeat in range(args.warm_up + args.repeats):
        batch, train_s = timed(lambda: next(train), device)
        _, validation_s = timed(lambda: next(validation), device)
        (state, _), step_s = timed(lambda s=state, b=batch: step(s, b), device)
        if repeat >= args.warm_up:
            for name, seconds in zip(times, (train_s, validation_s, step_s), strict=True):
                times[name].append(1e3 * seconds)
    medians = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    share = medians["train_batch_ms"] / medians["step_ms"]
    return {**medians, "share": share, "goal": GOAL, "reached": share <= GOAL}


def main() -> None:
    parser = argparse.ArgumentParser("pipeline.py", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--network", default="vgg")
    add("--dataset", default="cifar_10")
    add("--data-root", default="data")
    add("--batch-size", type=int, default=128)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--compile", action=argparse.BooleanOptionalAction, default=False)
    add("--warm-up", type=int, default=2)
    add("--repeats", type=int, default=10)
    add("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    row = {
        "network": args.network,
        "dataset": args.dataset,
        "device": args.device,
        "threads": args.threads,
        **measure(args),
    }
    keys = ("network", "dataset", "device", "threads")
    told = {name: value for name, value in vars(args).items() if name != "data_root"}
    origin = record.provenance(told, args.device)
    record.merge(record.RESULTS / "pipeline.json", [row], keys, origin)
    print(record.table([row], list(row)))


if __name__ == "__main__":
    main()
