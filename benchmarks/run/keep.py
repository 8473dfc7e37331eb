"""Keep what runs led to: their options, epochs and test result, as rows of one JSON file.

    python benchmarks/run/keep.py runs/one runs/other --output benchmarks/results/cifar_10.json

The folders of rtho.py and baselines.py hold everything and are not part of the repository; this is
what a table needs of them. A run with the options of one that is there replaces it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.run import outputs, record

SHOWN = ("script", "network", "dataset", "optimizer", "lr", "seed", "test_accuracy")


def kept(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The options, what the run led to (test, epochs, lr at each tenth), where that came from."""
    options, log = outputs.what(outputs.read_config(folder)), outputs.read_log(folder)
    path = folder / "summary.json"
    if not path.exists():
        raise ValueError(f"{folder} holds a run that has not finished: continue it with --resume")
    steps = [line for line in log if "step" in line]
    summary = json.loads(path.read_text())
    origin = summary.pop("provenance")
    result = {
        **summary,
        "epochs": [line for line in log if "epoch" in line],
        "lrs": [line["lr"] for line in steps[:: max(len(steps) // 10, 1)]],
        "null_steps": sum(not line["accepted"] for line in steps),
    }
    return options, result, origin


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    for folder in arguments.runs:
        options, result, origin = kept(folder)
        row = options | result
        record.merge(arguments.output, [row], list(options), origin)
        print(record.table([row], SHOWN))


if __name__ == "__main__":
    main()
