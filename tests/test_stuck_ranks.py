"""A rank that does not come along is named by the others, and they end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.distributed as dist

from benchmarks.run import heartbeat, ranks
from benchmarks.run.heartbeat import _behind
from tests.ranks import script_on_ranks


def wait_for_ever() -> None:
    while True:
        time.sleep(0.01)


def wait_long_and_say_so() -> None:
    with ranks.unhurried():
        time.sleep(heartbeat.STUCK + 3)


def run(odd: Callable[[], None], limit: float) -> int:
    """Ten collectives; before the fifth the last rank does what is odd."""
    if limit:
        heartbeat.SILENT = heartbeat.STUCK = limit
    ranks.start("cpu")
    try:
        with ranks.together():
            for t in range(10):
                if t == 5 and ranks.rank() == ranks.count() - 1:
                    print("here", flush=True)
                    odd()
                dist.all_reduce(torch.ones(()))
    except ranks.LostError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def stuck(options: Sequence[str]) -> int:
    return run(wait_for_ever, float(options[0]))


def slow(options: Sequence[str]) -> int:
    return run(wait_long_and_say_so, float(options[0]))


@pytest.mark.parametrize("limit", [8.0, pytest.param(0.0, marks=pytest.mark.acceptance)])
@pytest.mark.parametrize("what", ["loops", "stopped"])
def test_a_rank_that_does_not_come_along_is_named(tmp_path, what, limit):
    """Alive and in a loop, or stopped whole: the others end within a minute."""
    processes = script_on_ranks(stuck, [[str(limit)]] * 3, tmp_path)
    while not (tmp_path / "2").exists() or "here" not in (tmp_path / "2").read_text():
        time.sleep(0.05)
    if what == "stopped":
        os.kill(processes[2].pid, signal.SIGSTOP)
    began = time.monotonic()
    for process in processes[:2]:
        process.join(90)
    assert time.monotonic() - began < 60
    said = [(tmp_path / str(rank)).read_text() for rank in range(3)]
    words = "rank 2 is stuck" if what == "loops" else "rank 2 is gone"
    assert all(f"rank {rank} ends: {words}" in said[rank] for rank in range(2)), said
    if what == "loops":
        processes[2].join(20)
        assert "in wait_for_ever" in (tmp_path / "2").read_text()  # where it is
    processes[2].kill()


def test_a_rank_that_has_said_that_it_may_take_long(tmp_path):
    processes = script_on_ranks(slow, [["8.0"]] * 2, tmp_path)
    for process in processes:
        process.join(60)
    said = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert [process.exitcode for process in processes] == [0, 0], said


def test_since_when_a_rank_is_behind():
    """From when another came further, not from when it last came to one itself."""
    here = _behind({0: "9 4 0", 1: "9 4 0"}, {}, 100.0)
    assert here == {}
    late = _behind({0: "9 5 0", 1: "9 4 0"}, here, 200.0)
    assert late == {1: (4, 200.0)}
    assert _behind({0: "9 5 0", 1: "9 4 0"}, late, 230.0) == late
    assert _behind({0: "9 6 0", 1: "9 5 0"}, late, 230.0) == {1: (5, 230.0)}
    assert _behind({0: "9 5 0", 1: "9 4 1"}, late, 230.0) == {}  # it has said so
    assert _behind({0: heartbeat.DONE, 1: "9 4 0"}, late, 230.0) == {}
    assert _behind({0: heartbeat.LOST + "x", 1: "9 4 0"}, late, 230.0) == {}
