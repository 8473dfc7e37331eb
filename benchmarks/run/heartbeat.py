"""Whether the other ranks are alive and come along, by a thread of each that looks once a second.

A rank that is killed leaves the others waiting in a collective: gloo tells its neighbours, NCCL
nobody. So each rank keeps in the store that the ranks met in a number that counts up, and the
number of collectives it has come to, which the process group counts anyway; and looks at those of
the others. A rank whose first number stands still for ``SILENT`` seconds is gone, or stopped as by
SIGSTOP; one that is not where others have been waiting for ``STUCK`` seconds is stuck, in a loop or
a lock, unless it has said that it may take longer. It is named, and this process ends.
"""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

import torch.distributed as dist

BEAT = 1.0
SILENT = 20.0  # torchrun, which may see it earlier, kills after 30
STUCK = 40.0  # what ranks may be apart in a step, with all that is not said to take longer

#: What a rank leaves behind in place of a number when it ends.
DONE, STOPPED, FAILED, LOST = "done", "stopped", "failed", "lost: "


class Heartbeat:
    """The thread; ``leave`` ends it, ``sentence`` waits for what it finds."""

    def __init__(self, rank: int, count: int) -> None:
        self._rank, self._count = rank, count
        self._others = [r for r in range(count) if r != rank]
        self._store = dist.TCPStore(  # a connection of its own: the other one may be waiting
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=datetime.timedelta(seconds=SILENT),
        )
        self._lock, self._left, self._unhurried = threading.Lock(), False, False
        self._group: Any = dist.group.WORLD
        self._say(0)
        dist.barrier()  # all have begun
        self._said: str | None = None
        self._waited_for = False
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def unhurried(self) -> Generator[None, None, None]:
        """Where this rank may come minutes later than others."""
        before, self._unhurried = self._unhurried, True
        try:
            yield
        finally:
            self._unhurried = before

    def leave(self, how: str) -> None:
        """Say that this rank ends, and how."""
        with self._lock:
            self._left = True
            with contextlib.suppress(RuntimeError):  # whoever holds the store may have ended
                self._set(how)
                if how == STOPPED and self._rank == 0:  # it may hold the store that they read
                    self._wait_until_heard()

    def sentence(self) -> str | None:
        """After an error in a collective: who is missing, STOPPED, or ``None``: nobody."""
        self._waited_for = True
        end = time.monotonic() + SILENT + 5
        while self._said is None and time.monotonic() < end:
            time.sleep(0.1)
        return self._said

    def _set(self, value: str) -> None:
        self._store.set(f"beat/{self._rank}", value)

    def _wait_until_heard(self) -> None:
        end = time.monotonic() + 10 * BEAT
        while any(self._store.get(f"beat/{r}")[:1].isdigit() for r in self._others):
            if time.monotonic() > end:  # one that is gone does not hear
                return
            time.sleep(BEAT / 10)

    def _say(self, beats: int) -> None:
        # private, and the one place that counts collectives of compiled steps, too
        came_to = self._group._get_sequence_number_for_group()
        self._set(f"{beats} {came_to} {int(self._unhurried)}")

    def _watch(self) -> None:
        beats, began = 0, time.monotonic()
        heard = dict.fromkeys(self._others, ("", began))  # the last words of each, and when
        behind: dict[int, tuple[int, float]] = {}  # the collective it is not at, and since when
        while self._said is None:
            time.sleep(BEAT)
            beats += 1
            try:
                with self._lock:
                    if self._left:
                        return
                    self._say(beats)
                values = {r: self._store.get(f"beat/{r}").decode() for r in range(self._count)}
            except RuntimeError:
                self._end("the process where the ranks met (torchrun, or rank 0) is gone")
                return
            now = time.monotonic()
            heard = {r: h if h[0] == values[r] else (values[r], now) for r, h in heard.items()}
            self._look(values, {r: now - since for r, (_, since) in heard.items()})
            behind = _behind(values, behind, now)
            for r, (_, since) in behind.items():
                if now - since > STUCK:
                    self._end(f"rank {r} is stuck: the others have waited for {STUCK:.0f} s")

    def _look(self, values: dict[int, str], silent: dict[int, float]) -> None:
        """What other ranks said last, the longest silent first: who is missed by it is no cause."""
        for r in sorted(silent, key=lambda r: -silent[r]):
            if values[r] == STOPPED:
                self._said = STOPPED
                self._set(STOPPED)  # it has heard
            elif values[r].startswith(LOST):
                self._end(values[r].removeprefix(LOST))
            elif values[r] == FAILED:
                self._end(f"rank {r} has failed, see what it says")
            elif values[r] != DONE and silent[r] > SILENT:
                self._end(f"rank {r} is gone: not a word from it for {SILENT:.0f} s")

    def _end(self, why: str) -> None:
        """Tell the main thread if it asks; else it waits in a collective that never ends."""
        if self._said is not None:
            return
        self._said = why
        time.sleep(3 * BEAT)
        if not self._waited_for and not self._left:
            self.leave(LOST + why)
            if why.startswith(f"rank {self._rank} "):
                faulthandler.dump_traceback()  # where it is stuck
            print(f"rank {self._rank} ends: {why}", file=sys.stderr, flush=True)
            os._exit(1)


def _behind(
    values: dict[int, str], before: dict[int, tuple[int, float]], now: float
) -> dict[int, tuple[int, float]]:
    """The ranks that are not where another is: the last collective of each, and since when."""
    said = {r: [int(n) for n in value.split()] for r, value in values.items() if value[0].isdigit()}
    furthest = max((came_to for _, came_to, _ in said.values()), default=0)
    late = {r: at for r, (_, at, unhurried) in said.items() if at < furthest and not unhurried}
    return {
        r: before[r] if r in before and before[r][0] == at else (at, now) for r, at in late.items()
    }
