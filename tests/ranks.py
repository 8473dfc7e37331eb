"""Functions run on several ranks at once: processes of one machine that know each other by gloo."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_ranks(count: int, fn: Callable[[], Any], seconds: float = 900) -> list[Any]:
    """What ``fn()`` returns on each of ``count`` ranks; the first rank's error, if there is one."""
    context = _context()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_run, args=(Path(folder), rank, count, fn))
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(seconds)
            process.kill()
            process.join()
        paths = sorted(Path(folder).glob("rank*.pt"))  # our own, whatever kinds are in them
        ended = [torch.load(path, weights_only=False) for path in paths]
    errors = [error for _, error in ended if error]
    errors.sort(key=lambda error: "by peer" in error)  # what the others say of one that failed
    assert not errors, errors[0]
    assert len(ended) == count, f"{count - len(ended)} ranks ended without a word"
    return [result for result, _ in ended]


def script_on_ranks(
    main: Callable[[Sequence[str]], int], options: Sequence[Sequence[str]], logs: Path
) -> list[Any]:
    """Processes that run a script as torchrun starts it, a rank for each list of options.

    What rank r says on stderr and stdout goes to ``logs/r``.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    logs.mkdir(exist_ok=True)
    processes = [
        _context().Process(target=_script, args=(main, own, rank, len(options), port, logs))
        for rank, own in enumerate(options)
    ]
    for process in processes:
        process.start()
    return processes


def _script(
    main: Callable[[Sequence[str]], int],
    options: Sequence[str],
    rank: int,
    count: int,
    port: int,
    logs: Path,
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "RANK": str(rank)}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    with open(logs / f"{rank}", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.exit(main(options))


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.replicated", "benchmarks.rtho"])
    return context


def _run(folder: Path, rank: int, count: int, fn: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=600),
    )
    result, error = None, ""
    try:
        result = fn()
    except Exception:
        error = f"rank {rank}: {traceback.format_exc()}"
    part = folder / "part" / f"{rank}"
    part.parent.mkdir(exist_ok=True)
    torch.save((result, error), part)
    part.rename(folder / f"rank{rank}.pt")
    if not error:
        dist.barrier()
        dist.destroy_process_group()
