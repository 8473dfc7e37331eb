"""Optimizer states spread over ranks: each keeps and updates 1/R of them, and of their tangent.

All ranks hold w and its tangent whole, since a loss needs them; but what an optimizer remembers is
needed where it moves w. An optimizer that moves each number by itself can do that on a part,

    (u_r, s_r) ← update(g_r, s_r, w_r)        u ← (u_1, ..., u_R)

in one collective more, of the updates, and one of their tangents: stage 1 of ZeRO (Rajbhandari et
al. 2020). The recursion differentiates it as it does any optimizer, so that Z's part of the state
is spread as well, without a word about it elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .optimizers import Optimizer, at_params
from .replicas import OfThisRank, all_gather, is_of_this_rank, rank_of, size_of
from .trees import (
    HParams,
    Params,
    PyTree,
    all_finite,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_names,
    tree_unflatten,
)


def sharded(optimizer: Optimizer, group: Any = None) -> Optimizer:
    """``optimizer`` with its state, and Z's part of it, spread over the ranks of ``group`` (all).

    Bytes a parameter of float32 with lr tuned, on R ranks: 8 + 8/R with momentum (16), 8 + 16/R
    with AdamW (24). In a process by itself it is ``optimizer``. Put around it what looks at all
    numbers: ``averaged(clip_grad_norm(sharded(adamw()), 1.0))``.

    A state differs by rank, then. ``resharded`` makes it whole for a checkpoint.

    Raises:
        ValueError: for an averaged optimizer; at ``init`` for one that does not move each number by
            itself, such as ``muon`` or ``clip_grad_norm``.
    """
    count = size_of(group)
    if group is None and count == 1:
        return optimizer
    if optimizer.judged is not at_params:
        raise ValueError("an average is of whole parameters: write averaged(sharded(...))")
    part = functools.partial(_part, group=group)

    def init(params: Params) -> OfThisRank:
        _check_by_itself(optimizer, params)
        return OfThisRank(optimizer.init(tree_map(part, params)))

    @functools.wraps(optimizer.update)
    def update(
        grads: Params, state: OfThisRank, params: Params, hparams: HParams
    ) -> tuple[Params, OfThisRank]:
        mine = (tree_map(part, tree) for tree in (grads, params))
        updates, own = optimizer.update(next(mine), state.of_this_rank, next(mine), hparams)
        leaves = tree_leaves(updates)
        flat = torch.cat([leaf.reshape(-1) for leaf in leaves])
        rows: Any = _gather(flat, group, *tree_leaves(own))
        parts = iter(rows.split([leaf.numel() for leaf in leaves], dim=1))
        whole = tree_map(lambda w: _whole(next(parts), w).to(w.dtype), params)
        return whole, OfThisRank(own)

    return optimizer._replace(init=init, update=update)


def resharded(state: Any, optimizer: Optimizer, group: Any = None) -> Any:
    """A run's ``state`` as that of ``optimizer``, with ``sharded`` in it or without.

    Each rank has to call it. For a checkpoint that any number of ranks can go on with,

        whole = resharded(state, averaged(adamw()))
        state = resharded(whole, averaged(sharded(adamw())))
    """
    wanted = optimizer.init(state.params)
    have, likes = map(tree_names, (state.opt_state, wanted))
    treedef = tree_flatten(wanted)[1]

    def moved(tree: PyTree, lead: int) -> PyTree:
        leaves = zip(have, likes, tree_leaves(tree), tree_leaves(wanted), strict=True)
        return tree_unflatten(treedef, [_moved(*of, lead=lead, group=group) for of in leaves])

    z = state.z._replace(opt_state=moved(state.z.opt_state, 1))
    return state._replace(opt_state=moved(state.opt_state, 0), z=z)


def _moved(have: str, want: str, leaf: Tensor, like: Tensor, *, lead: int, group: Any) -> Tensor:
    """One leaf, with ``lead`` dimensions in front of its own."""
    was, will = map(is_of_this_rank, (have, want))
    if was == will or (will and not like.ndim):  # a counter is the same on all ranks
        return leaf
    columns = leaf.reshape(leaf.shape[0] if lead else 1, -1)
    if will:
        found = torch.stack([_part(column, group) for column in columns])
    else:
        found = torch.stack([_whole(all_gather(column, group), like) for column in columns])
    return found.reshape((*leaf.shape[:lead], *like.shape))


class _Gather(torch.autograd.Function):
    """(n,) of each rank to (R, n) on all, NaN from a rank that remembers what is not finite.

    Its tangent is gathered as it is, NaN where that of a memory is not finite: what one rank alone
    has would be its alone to refuse.
    """

    @staticmethod
    def forward(flat: Tensor, group: Any, *memory: Tensor) -> Tensor:
        return all_gather(_spoilt(flat, memory), group)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None, *memory: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _gather(tangent, ctx.group, *memory)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Tensor, int]:
        flat, group, *memory = (
            leaf if dim is None else leaf.movedim(dim, 0)
            for leaf, dim in zip(arguments, in_dims, strict=True)
        )
        dims = in_dims[2:]

        def column(k: int) -> Tensor:
            own = [m if dim is None else m[k] for m, dim in zip(memory, dims, strict=True)]
            return _spoilt(flat if in_dims[0] is None else flat[k], own)

        columns = torch.stack([column(k) for k in range(info.batch_size)])
        return all_gather(columns.reshape(-1), group).reshape(-1, *columns.shape), 1


def _gather(flat: Tensor, group: Any, *memory: Tensor) -> Tensor:
    function: Any = _Gather
    return function.apply(flat, group, *memory)


def _spoilt(flat: Tensor, memory: Sequence[Tensor]) -> Tensor:
    return torch.where(all_finite(*memory), flat, torch.nan)


def _part(leaf: Tensor, group: Any) -> Tensor:
    """This rank's 1/R of the numbers, padded with zeros."""
    flat, count = leaf.reshape(-1), size_of(group)
    share = -(-flat.numel() // count)
    padded = F.pad(flat, (0, share * count - flat.numel()))
    return padded.reshape(count, share)[rank_of(group)]


def _whole(rows: Tensor, like: Tensor) -> Tensor:
    return rows.reshape(-1)[: like.numel()].reshape(like.shape)


def _check_by_itself(optimizer: Optimizer, params: Params) -> None:
    """Moved apart, a small tree of the same names has to go where it goes whole.

    Twice, by gradients that any norm would clip: Adam's first step does not depend on their size.
    """
    draw = torch.Generator().manual_seed(0)

    def small(leaf: Tensor) -> Tensor:
        shape = [min(size, 2) for size in leaf.shape]
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(leaf.device)

    w, *grads = (tree_map(small, params) for _ in range(3))
    grads = [tree_map(lambda g: 1e6 * g, tree) for tree in grads]
    halves = [tree_map(lambda x, h=h: x.reshape(-1)[h::2], (w, grads)) for h in (0, 1)]

    def ends(w: Params, grads: list[Params]) -> list[Tensor]:
        state, updates = optimizer.init(w), w
        for g in grads:
            updates, state = optimizer.update(g, state, w, optimizer.hparams)
        return tree_leaves(updates)

    whole, why = ends(w, grads), None
    try:
        pairs = zip(whole, *(ends(*half) for half in halves), strict=True)
        alike = all(
            torch.allclose(one.reshape(-1)[h::2], half)
            for one, *apart in pairs
            for h, half in enumerate(apart)
        )
    except (ValueError, RuntimeError) as error:  # it has no use for rows of numbers
        alike, why = False, error
    if not alike:
        raise ValueError(
            "sharded needs an optimizer that moves each number by itself: put what looks at all of "
            "them around it, as clip_grad_norm(sharded(adamw()), 1.0); muon cannot be sharded"
        ) from why
