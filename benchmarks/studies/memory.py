"""What a run carries from step to step, and what a step adds at its peak.

    python -m benchmarks.studies.memory

With s copies of the parameters in the optimizer's state and K tuned scalars, a run carries
``(1 + s)(1 + K)`` copies: Z is one of parameters and optimizer's state a column, whatever the
``hvp``. In bytes a parameter, predicted and counted, with Z in float32 and in bfloat16.

Activations are of the step: ``accumulate(exact, m)`` looks at one of m parts at a time. Its peak
(Linux) and time, on an MLP of 16 layers whose activations outweigh its parameters.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import tree_leaves
from benchmarks.run import memory, record

OUTPUT = record.RESULTS / "memory.json"
COPIES = {
    "sgd": (atf.sgd(momentum=0.9), 1),
    "adamw": (atf.adamw(), 2),
    "averaged adamw": (atf.averaged(atf.adamw()), 3),
}
TUNED = {0: {}, 1: {"lr": 1e-3}, 2: {"lr": 1e-3, "weight_decay": 1e-2}}
WIDTHS = {"float32": 4, "bfloat16": 2}
KEYS = ("optimizer", "tuned", "z", "parts")


def carried() -> list[dict[str, Any]]:
    loss_fn, params, buffers = atf.functionalize(nn.Linear(500, 500), F.cross_entropy)
    size, rows = sum(p.numel() for p in params.values()), []
    for name, (optimizer, copies) in COPIES.items():
        for columns, hparams in TUNED.items():
            for z, width in WIDTHS.items():
                tuner = atf.marthe(loss_fn, optimizer, z_dtype=getattr(torch, z))
                state = tuner.init(params, hparams, buffers)
                counted = sum(x.numel() * x.element_size() for x in tree_leaves(state)) / size
                predicted = (1 + copies) * (4.0 + width * columns)
                row = {"optimizer": name, "tuned": columns, "z": z, "parts": None}
                rows.append({**row, "predicted": predicted, "counted": counted})
    return rows


def peaks(batch_size: int = 4096, width: int = 128, rounds: int = 5) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    layers = [layer for _ in range(16) for layer in (nn.Linear(width, width), nn.GELU())]
    f = atf.functionalize(nn.Sequential(*layers, nn.Linear(width, 10)), F.cross_entropy)
    x, y = torch.randn(batch_size, width), torch.arange(batch_size) % 10
    rows = []
    for parts in (1, 2, 4, 8):
        hvp = atf.exact if parts == 1 else atf.accumulate(atf.exact, parts)
        tuner = atf.marthe(f.loss_fn, atf.sgd(momentum=0.9), hvp=hvp)
        held, seconds = [tuner.init(f.params, {"lr": 1e-3}, f.buffers)], []

        def once(tuner: atf.Tuner = tuner, held: list[Any] = held) -> None:
            held[0], _ = tuner.step(held[0], (x, y), (x[:64], y[:64]))

        for _ in range(rounds):
            began = time.perf_counter()
            once()
            seconds.append(time.perf_counter() - began)
        row = {"optimizer": "sgd", "tuned": 1, "z": "float32", "parts": parts}
        peak = memory.resident_peak(once)
        rows.append({**row, "peak_mb": peak, "seconds": statistics.median(seconds)})
    return rows


def main() -> None:
    for rows in (carried(), peaks()):
        record.merge(OUTPUT, rows, KEYS, record.provenance({}))
        print(record.table(rows, tuple(rows[0])))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
