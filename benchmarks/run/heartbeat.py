"""Whether the other ranks are alive, by a thread of each that says so once a second.

A rank that is killed leaves the others waiting in a collective: gloo tells its neighbours, NCCL
nobody. So each rank counts up a number of its own in the store that the ranks met in, and looks at
those of the others. One that stands still for ``SILENT`` seconds is named, and this process ends.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import threading
import time

import torch.distributed as dist

BEAT = 1.0
SILENT = 20.0  # torchrun, which may see it earlier, kills after 30

#: What a rank leaves behind in place of a number when it ends.
DONE, STOPPED, FAILED, LOST = "done", "stopped", "failed", "lost: "


class Heartbeat:
    """The thread; ``leave`` ends it, ``sentence`` waits for what it finds."""

    def __init__(self, rank: int, count: int) -> None:
        self._rank, self._others = rank, [r for r in range(count) if r != rank]
        self._store = dist.TCPStore(  # a connection of its own: the other one may be waiting
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=datetime.timedelta(seconds=SILENT),
        )
        self._lock, self._left = threading.Lock(), False
        self._set("0")
        dist.barrier()  # all have begun
        self._said: str | None = None
        self._waited_for = False
        threading.Thread(target=self._watch, daemon=True).start()

    def leave(self, how: str) -> None:
        """Say that this rank ends, and how."""
        with self._lock:
            self._left = True
            with contextlib.suppress(RuntimeError):  # whoever holds the store may have ended
                self._set(how)

    def sentence(self) -> str | None:
        """After an error in a collective: who is missing, STOPPED, or ``None``: nobody."""
        self._waited_for = True
        end = time.monotonic() + SILENT + 5
        while self._said is None and time.monotonic() < end:
            time.sleep(0.1)
        return self._said

    def _set(self, value: str) -> None:
        self._store.set(f"beat/{self._rank}", value)

    def _watch(self) -> None:
        beats, seen = 0, {r: ("", time.monotonic()) for r in self._others}
        while self._said is None:
            time.sleep(BEAT)
            beats += 1
            try:
                with self._lock:
                    if self._left:
                        return
                    self._set(str(beats))
                values = {r: self._store.get(f"beat/{r}").decode() for r in self._others}
            except RuntimeError:
                self._end("the process where the ranks met (torchrun, or rank 0) is gone")
                return
            now = time.monotonic()
            for r, value in values.items():
                if value != seen[r][0]:
                    seen[r] = value, now
                if value == STOPPED:
                    self._said = STOPPED
                elif value.startswith(LOST):
                    self._end(value.removeprefix(LOST))
                elif value == FAILED:
                    self._end(f"rank {r} has failed, see what it says")
                elif value != DONE and now - seen[r][1] > SILENT:
                    self._end(f"rank {r} is gone: not a word from it for {SILENT:.0f} s")

    def _end(self, why: str) -> None:
        """Tell the main thread if it asks; else it waits in a collective that never ends."""
        self._said = why
        time.sleep(3 * BEAT)
        if not self._waited_for and not self._left:
            print(f"rank {self._rank} ends: {why}", file=sys.stderr, flush=True)
            os._exit(1)
