"""Peak memory of a compiled step, with and without ``donate=True``, beside plain training.

    python -m benchmarks.studies.donate --networks vgg_11

Each case is a process of its own. Reported: the bytes of the state, and by how much the resident
set (on CUDA what is allocated) grows at its peak during a step, over what is held before it. The
state is held before, so a step that makes a new one beside it grows by that, and a step that
donates does not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import adatune_func as atf
from adatune_func.trees import tree_leaves
from benchmarks.run import memory, record
from benchmarks.studies.models import MODELS

OPTIMIZERS: dict[str, Callable[[], atf.Optimizer]] = {
    "sgd": lambda: atf.sgd(momentum=0.9, weight_decay=5e-4),
    "adam": lambda: atf.adam(),
}
METHODS = ("plain", "exact")
KEYS = ("network", "optimizer", "method", "donate", "batch_size", "device")


def measured(network: str, optimizer: str, method: str, donate: bool, given: Any) -> list[float]:
    """Megabytes of the state, and of a step at its peak."""
    torch.manual_seed(0)
    model = MODELS[network]
    module = model.build().to(given.device)
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    tuner = (atf.plain if method == "plain" else atf.marthe)(loss_fn, OPTIMIZERS[optimizer]())
    state = tuner.init(params, {"lr": 0.01}, buffers)
    size = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(state)) / 1e6
    x = torch.randn(given.batch_size, *model.shape, device=given.device)
    batch = (x, torch.randint(0, 10, (given.batch_size,), device=given.device))
    step = atf.jit(tuner.step, donate=donate, backend=given.backend)
    held = [state]
    del state

    def once() -> None:
        held[0], _ = step(held[0], batch, batch)

    for _ in range(2):
        once()
    peak = memory.cuda_peak if given.device == "cuda" else memory.resident_peak
    return [size, peak(once)]


def row(network: str, optimizer: str, method: str, donate: bool, given: Any) -> dict[str, Any]:
    """The case, measured by a child, in which nothing but this case was ever held."""
    case = [network, optimizer, method, str(int(donate))]
    command = [sys.executable, "-m", "benchmarks.studies.donate", "--child", *case]
    command += ["--batch-size", str(given.batch_size), "--device", given.device]
    command += ["--backend", given.backend, "--threads", str(given.threads)]
    # Every large block comes from the system and goes back to it, so that the peak is what is used.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    size, peak = map(float, done.stdout.split()[-2:])
    return {
        **{"network": network, "optimizer": optimizer, "method": method, "donate": donate},
        **{"batch_size": given.batch_size, "device": given.device, "backend": given.backend},
        **{"state MB": size, "peak MB": peak, "state and peak MB": size + peak},
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["vgg_11"], choices=list(MODELS))
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=record.RESULTS / "donate.json")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    if given.child:
        network, optimizer, method, donate = given.child
        print(*measured(network, optimizer, method, bool(int(donate)), given))
        return
    for network in given.networks:
        for optimizer in given.optimizers:
            for method in METHODS:
                for donate in (False, True):
                    found = row(network, optimizer, method, donate, given)
                    origin = record.provenance(vars(given), given.device)
                    record.merge(given.output, [found], KEYS, origin)
                    print(record.table([found], list(found)), flush=True)


if __name__ == "__main__":
    main()
