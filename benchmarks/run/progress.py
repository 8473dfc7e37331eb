"""What a run says while it goes on: loss, lr in use, what the bound cut, steps refused, time left.

On a terminal a bar, else nothing but the line of each epoch: no carriage returns in a pipe, and no
colours anywhere, so that NO_COLOR has nothing to switch off.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from adatune_func.trees import tree_leaves
from benchmarks.run.outputs import Row

#: How many steps lie between two looks, each of which waits for the device.
EVERY = 20


def bar(steps: int, first: int, hidden: bool) -> tqdm[Any]:
    """A bar on stderr, where that is a terminal."""
    return tqdm(
        total=steps, initial=first, unit="step", disable=True if hidden else None, mininterval=0.5
    )


def state_of_it(rows: Sequence[Row], lr: float) -> dict[str, str]:
    """The last steps' loss, lr, and how many of them were bounded or refused."""
    infos = [row.info for row in rows]
    seen = torch.stack(
        [
            infos[-1].loss.float(),
            torch.stack([least(info.kept) < 1 for info in infos]).sum().float(),
            torch.stack([~info.accepted for info in infos]).sum().float(),
        ]
    )
    loss, cut, refused = seen.tolist()
    said = {"loss": f"{loss:.4f}", "lr": f"{lr:.2e}"}
    if cut:
        said["cut"] = f"{cut:.0f}/{len(rows)}"
    if refused:
        said["refused"] = f"{refused:.0f}/{len(rows)}"
    return said


def least(kept: object) -> torch.Tensor:
    """The smallest share that the bound left of a column; 1 where nothing is tuned."""
    leaves = [leaf.float() for leaf in tree_leaves(kept)]
    return torch.stack(leaves).min() if leaves else torch.ones(())


def time_left(began: float, done: int, left: int) -> str:
    """``h:mm:ss`` at the pace so far, "" where there is none or nothing is left."""
    if not done or not left:
        return ""
    seconds = round((time.monotonic() - began) / done * left)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"
