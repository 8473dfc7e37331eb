"""One run as several processes: under ``torchrun`` each is a rank and sees its part of each batch.

    torchrun --nproc-per-node 2 benchmarks/rtho.py --network lenet --batch-size 64

The batches are those of one process, R ranks take every Rth sample of each; the first rank alone
writes, prints and draws. In a process by itself all of this does nothing.
"""

from __future__ import annotations

import datetime
import functools
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from adatune_func.data.batches import generator_for
from benchmarks.run import heartbeat
from benchmarks.run.heartbeat import Heartbeat

P = ParamSpec("P")
T = TypeVar("T")


class LostError(RuntimeError):
    """Another rank is not there any more; the words say which."""


_beats: list[Heartbeat] = []  # of this process, if it is one of several


def start(device: str) -> None:
    """Meet the other ranks: by NCCL where each has a CUDA device, by gloo on the CPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # the first step compiles, which may take one rank longer than another
    patience = datetime.timedelta(minutes=30)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=patience)
    _beats.append(Heartbeat(rank(), count()))


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    return rank() == 0


def first_only(fn: Callable[P, None]) -> Callable[P, None]:
    """``fn`` on rank 0, nothing elsewhere; the others wait as long as it takes."""

    @functools.wraps(fn)
    def on_first(*args: P.args, **kwargs: P.kwargs) -> None:
        if is_first():
            with unhurried():
                fn(*args, **kwargs)

    return on_first


def check_alike(options: Mapping[str, Any]) -> None:
    """Raise ValueError, on rank 0, where ranks were started with different options."""
    if count() == 1:
        return
    everyone: list[Any] = [None] * count()
    dist.all_gather_object(everyone, dict(options))
    for name in {name: None for of_rank in everyone for name in of_rank}:
        values = [of_rank.get(name) for of_rank in everyone]
        for other, value in enumerate(values):
            if value != values[0]:
                if not is_first():
                    raise SystemExit(2)  # rank 0 says it
                raise ValueError(
                    f"--{name.replace('_', '-')} is {values[0]!r} on rank 0 and {value!r} on rank "
                    f"{other}: start all ranks with the same options"
                )


def part_of(batch_size: int) -> int:
    """How many samples of a batch a rank sees; ValueError where they do not split."""
    if batch_size % count():
        raise ValueError(
            f"--batch-size {batch_size} is that of all ranks together and does not split into "
            f"{count()} equal parts"
        )
    return batch_size // count()


def seed_others(seed: int, step: int) -> None:
    """Other dropout on other ranks: from (seed, rank, step) on ranks but the first.

    Called where a checkpoint is written and where one is read, so that it needs to hold the random
    generator of rank 0 only, which draws as a process by itself does.
    """
    if not is_first():
        torch.manual_seed(generator_for(seed, f"rank {rank()}", step).initial_seed())


def total(numbers: Tensor) -> Tensor:
    """The sum over ranks."""
    if count() > 1:
        dist.all_reduce(numbers)
    return numbers


def after_the_first(fn: Callable[[], T]) -> T:
    """``fn()`` on rank 0 and then on the others: it may download, or make files."""
    if not is_first():
        wait_for_all()
    with unhurried():
        result = fn()
    if is_first():
        wait_for_all()
    return result


@contextmanager
def unhurried() -> Generator[None, None, None]:
    """Where one rank may take minutes more than others, as to compile: none is called stuck."""
    with ExitStack() as stack:
        for beats in _beats:
            stack.enter_context(beats.unhurried())
        yield


def wait_for_all() -> None:
    if count() > 1:
        dist.barrier()


@contextmanager
def together() -> Generator[None, None, None]:
    """Where a rank runs: it says how it ends, and an error in a collective names who is missing."""
    how = heartbeat.FAILED
    try:
        yield
        how = heartbeat.DONE
    except KeyboardInterrupt:
        how = heartbeat.STOPPED
        raise
    except RuntimeError as error:
        if not _beats or not _of_a_collective(error):
            raise
        missing = _beats[0].sentence()
        if missing is None:  # all are there: it is another error
            raise
        if missing == heartbeat.STOPPED:
            how = heartbeat.STOPPED
            raise SystemExit(130) from None
        how = heartbeat.LOST + missing
        raise LostError(f"rank {rank()} ends: {missing}") from error
    finally:
        for beats in _beats:
            beats.leave(how)
        _beats.clear()
        if how == heartbeat.DONE and dist.is_initialized():
            dist.destroy_process_group()


def _of_a_collective(error: RuntimeError) -> bool:
    return any(word in str(error) for word in ("gloo", "NCCL", "ProcessGroup", "c10d"))


@contextmanager
def stoppable() -> Generator[Callable[[], bool], None, None]:
    """``asked()``: whether SIGTERM or Ctrl-C came, for the loop to save and end.

    A second one ends a process by itself at once. Of several, rank 0 alone ends; the others go on
    until they miss it: they are needed for the step that it is in, which may be another than
    theirs, and torchrun sends a signal more than once.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received and count() == 1:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # a test, or a notebook: signals are not this thread's
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received) and is_first()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
