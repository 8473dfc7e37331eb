"""Keep what runs led to: their options, epochs and test result, as rows of one JSON file.

    python benchmarks/keep.py runs/one runs/other --output benchmarks/results/cifar_10.json

The folders of rtho.py and baselines.py hold everything and are not part of the repository; this is
what a table needs of them. A run with the options of one that is there replaces it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import outputs, record

#: What a run is told apart by.
KEYS = ("script", "lr_scheduler", "network", "dataset", "optimizer", "lr", "mu", "hyper_lr", "seed")


def kept(folder: Path) -> dict[str, Any]:
    """One row: options that tell runs apart, the test result, every epoch, lr at each tenth."""
    config, log = outputs.read_config(folder), outputs.read_log(folder)
    path = folder / "summary.json"
    if not path.exists():
        raise ValueError(f"{folder} holds a run that has not finished: continue it with --resume")
    steps = [line for line in log if "step" in line]
    return {
        **{key: config.get(key) for key in KEYS},
        **json.loads(path.read_text()),
        "epochs": [line for line in log if "epoch" in line],
        "lrs": [line["lr"] for line in steps[:: max(len(steps) // 10, 1)]],
        "null_steps": sum(not line["accepted"] for line in steps),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    for folder in arguments.runs:
        row = kept(folder)
        record.merge(arguments.output, [row], KEYS, record.provenance(outputs.read_config(folder)))
        print(record.table([row], [*KEYS, "test_accuracy"]))


if __name__ == "__main__":
    main()
