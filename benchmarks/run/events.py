"""TensorBoard events from a run's log, for who has tensorboard installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def recorder() -> Callable[[Path, list[dict[str, Any]]], None]:
    """``record(folder, lines)``, which writes log lines as events into ``folder``.

    Raises ImportError, in words, where tensorboard is not installed.
    """
    try:
        tensorboard = importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise ImportError("--tensorboard needs tensorboard: pip install tensorboard") from None

    def record(folder: Path, lines: list[dict[str, Any]]) -> None:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()  # of the same log, cut shorter
        with tensorboard.SummaryWriter(str(folder)) as writer:
            for line in lines:
                at, prefix = (line["steps"], "epoch") if "epoch" in line else (line["step"], "step")
                for name, value in line.items():
                    if name not in ("step", "steps", "epoch"):
                        writer.add_scalar(f"{prefix}/{name}", float(value), at)

    return record
