"""What a step costs: every method side by side in one process.

    python -m benchmarks.studies.speed --networks mlp lenet
    python -m benchmarks.studies.speed --networks vgg_11 --device cuda --autocast

All methods of a network take turns, one step each, so that a busy machine slows all alike. Reported
are the median time and the median, over the rounds, of the ratio to the compiled plain step of the
same round; the first calls, which compile, are timed apart. Memory on the CPU is what a child
process keeps in its state plus what a step adds to its resident set, on CUDA max_memory_allocated.
Rows are merged into the JSON file, so parts may be run one by one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.run import memory, record
from benchmarks.studies.methods import BASELINE, METHODS
from benchmarks.studies.models import MODELS

COLUMNS = ["method", "ms", "ratio", "floor", "memory MB", "compile s"]


class Autocast(nn.Module):
    """The module with its forward pass under bfloat16 autocast."""

    def __init__(self, module: nn.Module, device: str) -> None:
        super().__init__()
        self.module, self.device = module, device

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            return self.module(images).float()


def prepared(network: str, arguments: Any) -> tuple[nn.Module, list[Any]]:
    """The module and two batches of noise in its data's shape, on the device."""
    torch.manual_seed(0)
    module, device = MODELS[network].build(), arguments.device
    batches: list[Any] = []
    for _ in range(2):
        images = torch.randn(arguments.batch_size, *MODELS[network].shape, device=device)
        labels = torch.randint(0, 10, (arguments.batch_size,), device=device)
        batches.append((images, labels))
    module = module.to(device)
    if arguments.channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batches = [(x.to(memory_format=torch.channels_last), y) for x, y in batches]
    return Autocast(module, device) if arguments.autocast else module, batches


def stopwatch(device: str) -> Callable[[Callable[[], None]], float]:
    """``seconds(call)``: between CUDA events, or by the clock.

    With one thread that is the processor's own clock, which stands still while others run.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def by_clock(call: Callable[[], None]) -> float:
        began = clock()
        call()
        return clock() - began

    def by_events(call: Callable[[], None]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    return by_events if device == "cuda" else by_clock


def measure(network: str, methods: Sequence[str], arguments: Any) -> list[dict[str, Any]]:
    """One row a method: median milliseconds, ratio to the baseline of the same round."""
    seconds = stopwatch(arguments.device)
    steps, compile_seconds, peaks = {}, {}, {}
    for method in methods:
        module, (batch, val_batch) = prepared(network, arguments)
        step = METHODS[method].build(module, arguments.optimizer)
        steps[method] = lambda step=step, b=batch, v=val_batch: step(b, v)
        began = time.perf_counter()
        steps[method]()
        compile_seconds[method] = time.perf_counter() - began
        for _ in range(arguments.warm_up):
            steps[method]()
        if arguments.device == "cuda":
            peaks[method] = memory.cuda_peak(steps[method])
    times: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(arguments.rounds):
        for method in methods:
            times[method].append(seconds(steps[method]) / METHODS[method].steps)
    return [
        {
            **_case(network, method, arguments),
            "ms": 1000 * statistics.median(times[method]),
            "ratio": statistics.median(
                mine / base for mine, base in zip(times[method], times[BASELINE], strict=True)
            ),
            "floor": METHODS[method].floor,
            "memory MB": peaks.get(method) or _memory_of_a_child(network, method, arguments),
            "compile s": compile_seconds[method],
        }
        for method in methods
    ]


def _case(network: str, method: str, arguments: Any) -> dict[str, Any]:
    return {
        "network": network,
        "method": method,
        "optimizer": arguments.optimizer,
        "device": arguments.device,
        "autocast": arguments.autocast,
        "tf32": arguments.tf32,
        "channels_last": arguments.channels_last,
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
    }


def _memory_of_a_child(network: str, method: str, arguments: Any) -> float | None:
    if not arguments.memory:
        return None
    given = [
        f"--{flag}"
        for flag in ("autocast", "channels-last")
        if getattr(arguments, flag.replace("-", "_"))
    ]
    command = [sys.executable, "-m", "benchmarks.studies.speed", "--child", "--networks", network]
    command += ["--methods", method, "--batch-size", str(arguments.batch_size), *given]
    command += ["--optimizer", arguments.optimizer, "--threads", str(arguments.threads)]
    # Every large block comes from the system and goes back to it, so that the peak is what is used.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _child(arguments: Any) -> None:
    module, (batch, val_batch) = prepared(arguments.networks[0], arguments)
    step = METHODS[arguments.methods[0]].build(module, arguments.optimizer)
    print(memory.resident_peak(lambda: step(batch, val_batch)))


def parsed(argv: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mlp", "lenet"], choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--optimizer", default="sgd", choices=["sgd", "adam"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--autocast", action="store_true", help="bfloat16 in the forward pass")
    parser.add_argument("--tf32", action="store_true", help="products of float32 in tf32 (CUDA)")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--memory", action="store_true", help="peak memory by child processes")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a few small steps, for tests")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "speed.json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.batch_size, arguments.rounds, arguments.warm_up = 8, 2, 1
    return arguments


@torch._dynamo.config.patch(recompile_limit=256)  # each method and network is a graph
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parsed(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda":
        torch.set_float32_matmul_precision("high" if arguments.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = arguments.tf32
    if arguments.child:
        return _child(arguments)
    methods = list(dict.fromkeys([BASELINE, *arguments.methods]))
    if arguments.optimizer != "sgd" and "classic eager" in methods:
        print("classic eager left out: it is written out for sgd with momentum")
        methods.remove("classic eager")
    keys = [name for name in _case("", "", arguments) if name != "rounds"]
    for network in arguments.networks:
        rows = measure(network, methods, arguments)
        run = record.provenance(vars(arguments), arguments.device)
        record.merge(arguments.output, rows, keys, run)
        print(f"\n{network}, {arguments.optimizer}, batch {arguments.batch_size}")
        print(record.table(rows, COLUMNS), flush=True)


if __name__ == "__main__":
    main()
