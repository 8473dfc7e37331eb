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
    tree_paths,
)


def shared_product(hvp: Hvp, hparams: HParams) -> Hvp:
    """One product a hyperparameter in place of one a prefix, for many groups of parameters.

    The column Z_k of lr["head"] starts on the parameters of "head" and reaches others only through
    the blocks of H between groups. Here the columns of one hyperparameter are sewn together,
    ``s = Σ_k Z_k``, and share one product, dealt out by rows:

        H Z_k ≈ P_k H s ,    P_k the projection onto group k.

    s is the exact tangent of moving all groups at once: the hypergradients of a hyperparameter sum
    to the exact one of the scalar in its place, only their division among groups is approximate.
    Dropping the blocks between groups altogether, ``P_k H Z_k``, costs K products and is worse
    (``benchmarks/studies/many_groups.py``). Z keeps K columns: time is saved, memory is not.

    Args:
        hvp: what makes the products.
        hparams: as given to ``init``, for :func:`by_prefix`; only names and prefixes matter.

    Raises:
        ValueError: at the first step, when the columns are not those of ``hparams``.
    """
    paths = tree_paths(hparams)
    columns = [[k for k, path in enumerate(paths) if path[0] == name] for name in hparams]

    def products(grad_fn: GradFn, params: Params, batch: Batch, v: Params) -> Products:
        count = tree_leaves(v)[0].shape[0]
        if count != len(paths):
            raise ValueError(
                f"shared_product was built for {len(paths)} columns and got {count}; give it the "
                "hparams that init takes"
            )
        kept = _columns_kept(params, hparams, paths)
        sewn = {name: torch.stack([v[name][ks].sum(0) for ks in columns]) for name in v}
        grads, hs, aux = hvp(grad_fn, params, batch, sewn)
        dealt: dict[str, Tensor] = {}
        for name in v:
            zero = torch.zeros_like(hs[name][0])
            row = dict(zip(kept[name], hs[name], strict=True))
            dealt[name] = torch.stack([row.get(k, zero) for k in range(count)])
        return grads, dealt, aux

    return products


def _columns_kept(
    params: Params, hparams: HParams, paths: list[tuple[Any, ...]]
) -> dict[str, list[int]]:
    """By parameter, the columns that live on it: one a hyperparameter."""
    kept: dict[str, list[int]] = {name: [] for name in params}
    for hparam, value in hparams.items():
        nested = is_a(value, Mapping)
        owners = owners_by_prefix(params, hparam, value) if nested else dict.fromkeys(params)
        for name, prefix in owners.items():
            kept[name].append(paths.index((hparam, prefix) if nested else (hparam,)))
    return kept
