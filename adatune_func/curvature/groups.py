"""One Hessian-vector product for many groups of parameters: an approximation, made to be cheap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..trees import (
    Batch,
    GradFn,
    HParams,
    Hvp,
    Params,
    Products,
    is_a,
    owners_by_prefix,
    tree_leaves,
    tree_map,
    tree_paths,
)
from .point import Point


def shared_product(hvp: Hvp, hparams: HParams) -> Hvp:
    """One product a hyperparameter in place of one a prefix, for many groups of parameters.

    The column Z_k of lr["head"] starts on the parameters of "head" and reaches others only through
    the blocks of H between groups. Here the columns of one hyperparameter are sewn together,
    ``s = Σ_k Z_k``, and share one product, dealt out by rows:

        H Z_k ≈ P_k H s ,    P_k the projection onto group k.

    s is the exact tangent of moving all groups at once: the hypergradients of a hyperparameter sum
    to the exact one of the scalar in its place, only their division among groups is approximate.
    Dropping the blocks between groups altogether, ``P_k H Z_k``, costs K products and is worse
    (``benchmarks/studies/many_groups.py``). Z keeps K columns: time is saved, memory is not. What
    is no dict by prefix has a product of its own, and so has each number of a loss, which acts on
    all parameters.

    Args:
        hvp: what makes the products.
        hparams: as given to ``init``, for :func:`by_prefix`; only names and prefixes matter.

    Raises:
        ValueError: at the first step, when the columns are not those of ``hparams``.
    """
    hparams = {n: tuple(v) if is_a(v, Tensor) and v.ndim else v for n, v in hparams.items()}
    paths = tree_paths(hparams)

    def products(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
        count = tree_leaves(v)[0].shape[0]
        if count != len(paths):
            raise ValueError(
                f"shared_product was built for {len(paths)} columns and got {count}; give it the "
                "hparams that init takes"
            )
        of_loss = params.hparams if isinstance(params, Point) else {}
        shared = [n for n, value in hparams.items() if is_a(value, Mapping) and n not in of_loss]
        together = [[k for k, path in enumerate(paths) if path[0] == name] for name in shared]
        alone = [[k] for k, path in enumerate(paths) if path[0] not in shared]
        sewn = tree_map(lambda z: torch.stack([z[ks].sum(0) for ks in (*together, *alone)]), v)
        grads, hs, aux = hvp(grad_fn, params, batch, sewn)
        rows = {k: len(together) + i for i, (k,) in enumerate(alone)}
        if not isinstance(hs, Point):
            return grads, _dealt(hs, hparams, shared, paths, rows), aux
        dealt = _dealt(hs.params, hparams, shared, paths, rows)
        return grads, Point(dealt, tree_map(torch.zeros_like, v.hparams)), aux

    return products


def _dealt(
    hs: Params,
    hparams: HParams,
    shared: list[str],
    paths: list[tuple[Any, ...]],
    alone: dict[int, int],
) -> dict[str, Tensor]:
    """Row i of ``hs``, of the i-th shared hyperparameter, goes where its prefix owns the parameter.

    A column by itself takes its row, ``alone[k]``, on all parameters.
    """
    owners = [owners_by_prefix(hs, name, hparams[name]) for name in shared]
    dealt: dict[str, Tensor] = {}
    for name, rows in hs.items():
        of_name = [(h, owner[name]) for h, owner in zip(shared, owners, strict=True)]
        row = {paths.index(path): i for i, path in enumerate(of_name)} | alone
        zero = torch.zeros_like(rows[0])
        dealt[name] = torch.stack([rows[row[k]] if k in row else zero for k in range(len(paths))])
    return dealt
