"""Results with their provenance: JSON files under benchmarks/results, merged row by row."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"

#: Arguments that say where things lie on one machine: no part of a result.
_PLACES = ("data", "data_root", "output", "out", "model_loc", "resume", "text")


def provenance(arguments: Mapping[str, Any], device: str = "cpu") -> dict[str, Any]:
    """What a number needs beside it to be checked: versions, machine, threads, date, arguments."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "arguments": {name: str(v) for name, v in arguments.items() if name not in _PLACES},
    }


def merge(path: Path, rows: Sequence[Mapping[str, Any]], keys: Sequence[str], run: Any) -> None:
    """Write ``rows`` into the file at ``path``; a row with the same ``keys`` is replaced.

    Each row points to the run it comes from by its number in ``runs``. JSON has neither NaN nor
    infinity: what diverged is null.
    """
    known = json.loads(path.read_text()) if path.exists() else {"runs": [], "rows": []}
    runs = known["runs"] if run in known["runs"] else [*known["runs"], run]
    number = runs.index(run)
    fresh = [{**_finite(row), "run": number} for row in rows]
    replaced = {tuple(row[key] for key in keys) for row in fresh}
    kept = [row for row in known["rows"] if tuple(row.get(key) for key in keys) not in replaced]
    known = {"runs": runs, "rows": [*kept, *fresh]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(known, indent=1, allow_nan=False) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The rows as markdown; numbers with three digits, what a row lacks left blank."""
    lines = [[_cell(row.get(column)) for column in columns] for row in rows]
    head = [list(columns), ["---"] * len(columns)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [*head, *lines])


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(its) for key, its in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(its) for its in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
