"""What a script says while its first step compiles."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

import adatune_func as atf
from benchmarks.run import ranks

LINE = "compiling the step, which takes a minute or more the first time; kept on disk, seconds then"


def announced(
    fn: Callable[..., Any], compiler: Callable[..., Any] = atf.jit, after: float = 5.0
) -> Callable[..., Any]:
    """``compiler(fn)``; one line on stderr where its first call takes more seconds than ``after``.

    Steps that are found on disk, or small, say nothing.
    """
    compiled, waiting = compiler(fn), [True]

    def call(*args: Any) -> Any:
        if not waiting:
            return compiled(*args)
        waiting.clear()
        timer = threading.Timer(after, tqdm.write, [LINE], {"file": sys.stderr})
        timer.daemon = True  # a script that is stopped does not wait for it
        timer.start()
        try:
            with ranks.unhurried():  # one rank may find on disk what another compiles
                return compiled(*args)
        finally:
            timer.cancel()

    return call
