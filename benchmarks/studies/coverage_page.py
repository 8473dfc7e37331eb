"""docs/coverage.md, drawn from benchmarks/results/coverage.json."""

from __future__ import annotations

from pathlib import Path


def page(path: Path) -> str:
    return ""
