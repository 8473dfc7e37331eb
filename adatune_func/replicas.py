"""One run on many devices: what is a mean over samples is a mean over ranks.

R processes hold the same state, and each looks at its own 1/R of a batch. Gradient, products, outer
gradient, losses and running statistics are means over samples,

    x = (x_1 + ... + x_R) / R ,

and all else that a step does is a function of these. So states stay equal bit for bit without being
sent, and NaN on one rank is NaN, a null step, on all. DDP's wrapper, which has no forward mode
(pytorch#182661), is not needed; ``torchrun`` and process groups of ``torch.distributed`` are.

What a layer computes across the samples of a batch it computes on its rank's: BatchNorm normalises
by rank, as under DDP, while its running statistics are means over ranks.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .trees import (
    Batch,
    Buffers,
    Mean,
    PyTree,
    alone,
    is_a,
    tree_leaves,
    tree_map,
    tree_names,
    type_name,
)

# private parts of torch: collectives that eager code, make_fx and inductor all take
_ops: Any = torch.ops
_dist: Any = dist
_torch: Any = torch

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class OfThisRank(NamedTuple):
    """What differs by rank on purpose: a part of an optimizer's state, see :func:`sharded`."""

    of_this_rank: PyTree


def mean(group: Any = None) -> Mean:
    """``mean=`` of a tuner: means over the ranks of ``group`` (all), in one collective a tree.

    Floating-point leaves become their mean, in the widest of their dtypes; bools become "on any
    rank". Integers, which count steps, are left to count on each rank. In a process by itself it
    is the identity; a group that is given is used, even one of a single rank.

    Under it each rank's loss has to be a mean over as many samples: where some are left out
    (``ignore_index``), the mean of the ranks' means weighs them by rank.

    Raises:
        RuntimeError: in one of several processes (``WORLD_SIZE``) before ``init_process_group``.
    """
    count = size_of(group)
    if group is None and count == 1:
        return alone

    def over_ranks(tree: PyTree) -> PyTree:
        sent = [leaf for leaf in tree_leaves(tree) if _is_sent(leaf)]
        device = sent[0].device
        # One flat tensor: a collective costs its latency, whatever it carries.
        flat = torch.cat([leaf.reshape(-1).to(device) for leaf in sent])
        total = _ops._c10d_functional.all_reduce(flat, "sum", _name(group))
        total = _ops._c10d_functional.wait_tensor(total)
        parts = iter(total.split([leaf.numel() for leaf in sent]))

        def received(leaf: Any) -> Any:
            if not _is_sent(leaf):
                return leaf
            part = next(parts).reshape(leaf.shape)
            return part > 0 if leaf.dtype == torch.bool else (part / count).to(leaf.dtype)

        return tree_map(received, tree)

    return over_ranks


def together(mean: Mean, seen: PyTree, buffers: Buffers, before: Buffers) -> tuple[Any, Buffers]:
    """``seen`` and ``buffers`` as means, in one call.

    Buffers that lie where they lay ``before``, such as frozen weights, did not move: the loss
    handed them through, and they are not sent.
    """
    if mean is alone:
        return seen, buffers
    moved = {n: b for n, b in buffers.items() if not _aliases(b, before[n])}
    seen, moved = mean((seen, moved))
    return seen, {**buffers, **moved}


def part(batch: Batch, group: Any = None) -> Batch:
    """This rank's rows of a batch that all ranks hold: ``rank, rank + R, rank + 2R, ...``.

    Interleaved, so that a first fraction of the parts is the first fraction of the batch.

    Raises:
        ValueError: unless all leaves have the same number of rows, a multiple of R.
    """
    count = size_of(group)
    if count == 1:
        return batch
    rank = _dist.get_rank(group)
    for leaf in tree_leaves(batch):
        rows = leaf.shape[0] if isinstance(leaf, Tensor) and leaf.ndim else 0
        if rows == 0 or rows % count:
            raise ValueError(
                f"a batch for {count} ranks needs the samples on dim 0 of each leaf and a multiple "
                f"of {count} of them, found {rows or type_name(leaf)}"
            )
    return tree_map(lambda leaf: leaf[rank::count], batch)


def check(state: PyTree, group: Any = None) -> None:
    """Raise unless ``state`` is the same on all ranks, bit for bit; each rank has to call it.

    A hash a leaf is compared, 8 bytes: cheap enough for every hundredth step, but it waits for the
    device. Call it after ``init``: ranks that begin apart stay apart.

    Raises:
        RuntimeError: on every rank, naming the first leaf that differs and the ranks where.
    """
    count = size_of(group)
    if count == 1:
        return
    ours = _hashes(state)
    all_ranks: list[Any] = [None] * count
    _dist.all_gather_object(all_ranks, ours, group=group)
    for name in {name: None for hashes in all_ranks for name in hashes}:
        values = [hashes.get(name) for hashes in all_ranks]
        odd = [rank for rank, value in enumerate(values) if value != values[0]]
        if odd:
            ranks = ", ".join(map(str, odd))
            raise RuntimeError(
                f"{name} on rank {ranks} is not what it is on rank 0: begin alike on all ranks "
                "(one seed before the model is built, or one checkpoint), and give every tuner "
                "mean=replicas.mean()"
            )


def all_gather(flat: Tensor, group: Any = None) -> Tensor:
    """(n,) of each rank as (R, n) on all of them."""
    count = size_of(group)
    rows = _ops._c10d_functional.all_gather_into_tensor(flat, count, _name(group))
    return _ops._c10d_functional.wait_tensor(rows).reshape(count, -1)


def is_of_this_rank(name: str) -> bool:
    """Whether the leaf of that name lies in an :class:`OfThisRank`."""
    return OfThisRank._fields[0] in name


def rank_of(group: Any = None) -> int:
    """Which one of them this is."""
    return _dist.get_rank(group)


def _name(group: Any) -> str:
    return (group or _dist.group.WORLD).group_name


def _hashes(state: PyTree) -> dict[str, Any]:
    """By the name of each leaf its kind and ``Σ bitsᵢ (2i + 1) mod 2⁶⁴``: any change moves it."""
    named = zip(tree_names(state), tree_leaves(state), strict=True)
    shared = {name: leaf.detach() for name, leaf in named if not is_of_this_rank(name)}
    return {n: (str(x.dtype), tuple(x.shape), int(_hash(x))) for n, x in shared.items()}


def _hash(leaf: Tensor) -> Tensor:
    real = torch.view_as_real(leaf) if leaf.is_complex() else leaf
    bits = real.contiguous().reshape(-1).view(_BITS[real.itemsize]).long()
    return (bits * torch.arange(1, 2 * bits.numel(), 2, device=bits.device)).sum()


def _is_sent(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.dtype == torch.bool)


def _aliases(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one in memory, whatever wraps them."""
    return a is b or (a.shape == b.shape and _torch._C._is_alias_of(a, b))


def size_of(group: Any = None) -> int:
    """How many ranks there are; 1 in a process by itself."""
    started = _dist.is_available() and _dist.is_initialized()
    if not started and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            "this is one of several processes, and they do not know each other yet: call "
            "torch.distributed.init_process_group() first"
        )
    if group is not None and not (started and is_a(group, _dist.ProcessGroup)):
        raise TypeError(
            f"a group of ranks is a torch.distributed.ProcessGroup, got {type_name(group)}; "
            "mean=replicas.mean() is to be called"
        )
    return _dist.get_world_size(group) if started else 1
