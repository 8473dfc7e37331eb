"""Ranks are one process, over the large grid; writes benchmarks/results/replicas_grid.json."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.run import record
from tests.ranks import on_ranks
from tests.replicas_grid import STEPS, Case, large_grid

OUTPUT = record.RESULTS / "replicas_grid.json"
KEYS = ("ranks", "check", *Case._fields)


def limit(case: Case) -> float:
    """Of equality: differences of gradients divide rounding by their step."""
    return 1e-6 if "difference" in case.hvp else 1e-12


def rows(found: dict[str, Any], count: int) -> list[dict[str, Any]]:
    accepted, sound = zip(*found["poisoned"], strict=True)
    faults = {
        "check": "a fault on a random rank",
        "how": "eager",
        "steps": len(sound),
        "faults": len(sound) - sum(sound),
        "null_steps": len(accepted) - sum(accepted),
        "at_the_same_steps": accepted == sound,
    }
    long = [
        {"check": "bit-equal", "how": how, "steps": 200, "moved": moved, "sha256": digest}
        for how, (moved, digest) in found["long"].items()
    ]
    grid = [
        {"check": "one process", **case._asdict(), "steps": STEPS, "off": off}
        for case, off in found["grid"].items()
    ]
    return [{**dict.fromkeys(KEYS), "ranks": count, **row} for row in (*grid, *long, faults)]


@pytest.mark.acceptance
@pytest.mark.parametrize("count", [2, 4])
def test_ranks_are_one_process(count):
    """Within 1e-12 of float64 over 20 steps; bit-equal after 200; 50 faults are 50 null steps."""
    every = on_ranks(count, large_grid, seconds=3600)
    record.merge(
        record.RESULTS / "replicas_grid.json", rows(every[0], count), KEYS, record.provenance({})
    )
    for rank in every:
        assert not {case: off for case, off in rank["grid"].items() if not off < limit(case)}
        assert rank["long"] == every[0]["long"]
        assert all(moved > 0.1 for moved, _ in rank["long"].values())
        accepted, sound = zip(*rank["poisoned"], strict=True)
        assert accepted == sound and len(sound) - sum(sound) == 50
