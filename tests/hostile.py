"""What is kept of many hostile runs: how many broke, and all of those."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.run import record


def keep(name: str, results: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """Write results/``name``.json; the runs that something was wrong with."""
    broken = [result for result in results if result["wrong"]]
    summary = {
        "runs": len(results),
        "steps": steps * len(results),
        "broken": len(broken),
        "refused_steps": sum(result["refused"] for result in results),
        **record.provenance({"steps": steps}),
        "results": broken,
    }
    path = record.RESULTS / f"{name}.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")
    return broken
