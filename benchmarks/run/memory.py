"""Peak memory of a step: resident set on the CPU (Linux), allocator's peak on CUDA. In MB."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def cuda_peak(step: Callable[[], None]) -> float:
    """What is held plus what a step adds, all methods built so far left out."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def resident_peak(step: Callable[[], None], times: int = 3) -> float:
    """What a step adds to the resident set at its peak, after warm-up."""
    for _ in range(times):
        step()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _kilobytes("VmRSS")
    for _ in range(times):
        step()
    return (_kilobytes("VmHWM") - before) / 1e3


def _kilobytes(field: str) -> float:
    line = next(row for row in _STATUS.read_text().splitlines() if row.startswith(field))
    return float(line.split()[1])
