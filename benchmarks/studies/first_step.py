"""Seconds to the first step: ``torch.compile(tuner.step)`` beside ``jit(tuner.step)``.

    python -m benchmarks.studies.first_step --networks mlp --rounds 3

Each in a process of its own with an empty cache of compiled kernels ("cold"), then once more in a
second process that finds them on disk ("warm"). Processor seconds of the process and its children
(the C++ compiler), beside those by the clock: on a shared machine the clock says little.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import adatune_func as atf
from benchmarks.run import record
from benchmarks.studies.models import MODELS

COMPILERS = ("torch.compile", "jit")
KEYS = ("network", "compiler", "cache")


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measured(network: str, compiler: str, batch_size: int) -> list[float]:
    """Seconds of the first step by the clock and of the processor, and of a later step."""
    torch.manual_seed(0)
    model = MODELS[network]
    loss_fn, params, buffers = atf.functionalize(model.build(), F.cross_entropy)
    tuner = atf.marthe(loss_fn, atf.sgd(momentum=0.9))
    state = tuner.init(params, {"lr": 0.01}, buffers)
    batch = (torch.randn(batch_size, *model.shape), torch.randint(0, 10, (batch_size,)))
    began, used = time.perf_counter(), _processor_seconds()
    compiled: Any = torch.compile(tuner.step, fullgraph=True)
    step = atf.jit(tuner.step) if compiler == "jit" else compiled
    step(state, batch, batch)
    first = [time.perf_counter() - began, _processor_seconds() - used]
    step(state, batch, batch)
    later: list[float] = []
    for _ in range(50):
        used = time.process_time()
        step(state, batch, batch)
        later.append(time.process_time() - used)
    return [*first, statistics.median(later)]


def child(network: str, compiler: str, cache: str, given: Any) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.studies.first_step", "--child", network, compiler]
    command += ["--batch-size", str(given.batch_size), "--threads", str(given.threads)]
    # Kernels are compiled in processes that outlive the measurement unless there is none of them.
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()[-3:]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mlp"], choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=record.RESULTS / "first_step.json")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    if given.child:
        network, compiler = given.child
        print(*measured(network, compiler, given.batch_size))
        return
    for network in given.networks:
        found: dict[tuple[str, str], list[list[float]]] = {}
        for _ in range(given.rounds):
            for compiler in COMPILERS:
                with tempfile.TemporaryDirectory() as cache:
                    for state in ("cold", "warm"):
                        seconds = child(network, compiler, cache, given)
                        found.setdefault((compiler, state), []).append(seconds)
                        print(network, compiler, state, seconds, flush=True)
        rows = [
            {
                **{"network": network, "compiler": compiler, "cache": state},
                "seconds": statistics.median(clock for clock, _, _ in times),
                "processor seconds": statistics.median(used for _, used, _ in times),
                "ms a later step": 1000 * statistics.median(later for _, _, later in times),
                "rounds": given.rounds,
            }
            for (compiler, state), times in found.items()
        ]
        record.merge(given.output, rows, KEYS, record.provenance(vars(given)))
        print(record.table(rows, list(rows[0])), flush=True)


if __name__ == "__main__":
    main()
