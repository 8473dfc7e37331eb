"""Seconds to the first step: ``torch.compile(tuner.step)`` beside ``jit(tuner.step)``.

    python -m benchmarks.studies.first_step --networks mlp lenet transformer --rounds 3
    python -m benchmarks.studies.first_step --compilers jit "jit, real tensors"
    python -m benchmarks.studies.first_step --compilers jit --workers 2  # on an idle machine

Each in a process of its own with an empty cache of compiled kernels ("cold"), then once more in a
second process that finds them on disk ("warm"). Processor seconds of the process and its children
(the C++ compiler), beside those by the clock: on a shared machine the clock says little. What it
takes to import inductor is in them, torch itself is not. With ``--workers`` kernels are compiled
side by side, as inductor does by itself on that many cores; these processes outlive the
measurement and the first number is then the clock's alone. "jit, real tensors" is what jit did
first: inductor is given real tensors, for which it keeps no graph on disk, and asks the C++
compiler which vector units it knows; "jit, units asked for" is as jit is, but that AMX and the
later parts of AVX-512 are asked for.
"""

from __future__ import annotations

import argparse
import math
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
from torch.fx import GraphModule

import adatune_func as atf
from benchmarks.run import record
from benchmarks.studies.models import MODELS

COMPILERS = ("torch.compile", "jit", "jit, real tensors", "jit, units asked for")
KEYS = ("network", "compiler", "cache", "workers")


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _real_tensors(module: GraphModule, inputs: list[torch.Tensor]) -> Any:
    made = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).zero_() for x in inputs]
    return torch._dynamo.lookup_backend("inductor")(module, made)


def measured(network: str, compiler: str, batch_size: int) -> list[float]:
    """Seconds of the first step by the clock and of the processor, of a later step; graph nodes."""
    torch.manual_seed(0)
    model = MODELS[network]
    loss_fn, params, buffers = atf.functionalize(model.build(), F.cross_entropy)
    tuner = atf.marthe(loss_fn, atf.sgd(momentum=0.9))
    state = tuner.init(params, {"lr": 0.01}, buffers)
    batch = (torch.randn(batch_size, *model.shape), torch.randint(0, 10, (batch_size,)))
    began, used = time.perf_counter(), _processor_seconds()
    if compiler == "torch.compile":
        step: Any = torch.compile(tuner.step, fullgraph=True)
    else:
        backend = _real_tensors if compiler == "jit, real tensors" else "inductor"
        # What is given is left alone: inductor asks for the vector units that it does not reach.
        options = {"cpp.vec_isa_ok": True} if compiler == "jit, units asked for" else None
        step = atf.jit(tuner.step, backend=backend, options=options)
    step(state, batch, batch)
    first = [time.perf_counter() - began, _processor_seconds() - used]
    step(state, batch, batch)
    later: list[float] = []
    for _ in range(50):
        used = time.process_time()
        step(state, batch, batch)
        later.append(time.process_time() - used)
    graph = None if compiler == "torch.compile" else step.graph(state, batch, batch).graph
    return [*first, statistics.median(later), len(graph.nodes) if graph else math.nan]


def child(network: str, compiler: str, cache: str, given: Any) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.studies.first_step", "--child", network, compiler]
    command += ["--batch-size", str(given.batch_size), "--threads", str(given.threads)]
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "TORCHINDUCTOR_COMPILE_THREADS": str(given.workers),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()[-4:]]


def rounds(network: str, compiler: str, given: Any) -> list[dict[str, Any]]:
    """A row for the empty cache of kernels and one for the full, medians of ``given.rounds``."""
    found: dict[str, list[list[float]]] = {"cold": [], "warm": []}
    kernels: list[int] = []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for state, times in found.items():
                times.append(child(network, compiler, cache, given))
                print(network, compiler, state, times[-1], flush=True)
            kernels.append(len(list(Path(cache).glob("*/*.main.cpp"))))
    return [
        {
            **{"network": network, "compiler": compiler, "cache": state, "workers": given.workers},
            "seconds": statistics.median(clock for clock, _, _, _ in times),
            "processor seconds": None
            if given.workers > 1
            else statistics.median(used for _, used, _, _ in times),
            "ms a later step": 1000 * statistics.median(later for _, _, later, _ in times),
            "nodes": None if compiler == "torch.compile" else int(times[0][3]),
            "C++ files": kernels[0],
            "rounds": given.rounds,
        }
        for state, times in found.items()
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mlp"], choices=list(MODELS))
    parser.add_argument("--compilers", nargs="+", default=list(COMPILERS), choices=list(COMPILERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=1, help="that compile kernels; 1: none")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "first_step.json")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    if given.child:
        network, compiler = given.child
        print(*measured(network, compiler, given.batch_size))
        return
    for network in given.networks:
        for compiler in given.compilers:
            rows = rounds(network, compiler, given)
            record.merge(given.output, rows, KEYS, record.provenance(vars(given)))
            print(record.table(rows, list(rows[0])), flush=True)


if __name__ == "__main__":
    main()
