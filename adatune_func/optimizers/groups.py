"""Hyperparameters by name prefix: groups of parameters under one optimizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from ..trees import HParams, Params, PyTree, is_a, owners_by_prefix, tree_flatten, tree_unflatten
from .optimizer import Optimizer


def by_prefix(optimizer: Optimizer, hparams: HParams | None = None) -> Optimizer:
    """Let a hyperparameter be a dict from name prefix to value: learning rates by layer or group.

    ``{"lr": {"": 0.1, "head": 0.01}}``: a parameter takes the value of the longest prefix of its
    dotted name, in whole components ("layers.1" is a prefix of "layers.1.weight", not of
    "layers.10.weight"); "" is a prefix of all. Each value that is tuned is a column of its own, so
    with K of them a step takes K Hessian-vector products; :func:`shared_product` takes one.

    Parameters that share all their values form a group, and ``optimizer`` is called on each group
    with scalars. Its state is cut where it holds a dict with the parameters' names; what is outside
    of such dicts (a step counter) is shared, so it must not depend on the gradients. Order matters
    where an optimizer looks at all parameters at once: ``clip_grad_norm(by_prefix(...))`` takes the
    norm over everything, ``by_prefix(clip_grad_norm(...))`` over one group.

    Args:
        hparams: values that replace the optimizer's, dicts or not; what is tuned replaces both.

    Raises:
        ValueError: at once, when the optimizer has no such hyperparameter; at init, for a parameter
            without a prefix and for a prefix that no parameter takes, be it tuned or given here.
        TypeError: at init, when ``params`` is not a flat dict with names for keys.

    >>> import torch
    >>> from adatune_func import sgd
    >>> optimizer = by_prefix(sgd(), {"lr": {"": 0.5, "head": 0.25}})
    >>> params = {"body.weight": torch.ones(()), "head.weight": torch.ones(())}
    >>> optimizer.update(params, optimizer.init(params), params, optimizer.hparams)[0]
    {'body.weight': tensor(-0.5000), 'head.weight': tensor(-0.2500)}
    """

    unknown = set(hparams or {}) - set(optimizer.hparams)
    if unknown:
        raise ValueError(
            f"the optimizer has no hyperparameter {', '.join(map(repr, sorted(unknown)))}; it has "
            f"{', '.join(optimizer.hparams)}"
        )
    hparams = {**optimizer.hparams, **(hparams or {})}

    def init(params: Params) -> PyTree:
        groups(params, hparams)
        return optimizer.init(params)

    @functools.wraps(optimizer.update)
    def update(
        grads: Params, state: PyTree, params: Params, values: HParams
    ) -> tuple[Params, PyTree]:
        # The prefixes are keys, so the groups are static: a compiled step never sees them.
        pieces, treedef = _cut(state, params)
        updates: dict[str, Any] = {}
        moved: list[list[Any]] = []
        for names, scalars in groups(params, values):
            group = _pick(params, names)
            part = tree_unflatten(treedef, [_pick(piece, names) for piece in pieces])
            step, part = optimizer.update(_pick(grads, names), part, group, scalars)
            updates |= step
            moved.append(_cut(part, group)[0])
        merged = [_merge(parts, params) for parts in zip(*moved, strict=True)]
        return {name: updates[name] for name in params}, tree_unflatten(treedef, merged)

    return optimizer._replace(init=init, update=update, hparams=hparams)


def by_ratio(optimizer: Optimizer, **ratios: Mapping[str, float]) -> Optimizer:
    """One number for a hyperparameter, times a fixed ratio for each name prefix.

    ``by_ratio(adamw(), lr={"": 1.0, "head": 10.0})``: lr is one scalar, so one column if it is
    tuned, and the head trains with ``10·lr``. Ratio 0 of ``weight_decay`` is no decay. Prefixes as
    in :func:`by_prefix`; the whole name of a parameter is one, too. h is with respect to the one
    number: the recursion differentiates through the products.

    Raises:
        ValueError: at once, when the optimizer has no such hyperparameter, and for a ratio that is
            not finite or below 0; at init, for a parameter without a prefix and for a prefix that
            no parameter takes.
        TypeError: at init, when ``params`` is not a flat dict with names for keys.

    >>> import torch
    >>> from adatune_func import sgd
    >>> optimizer = by_ratio(sgd(lr=0.5), lr={"": 1.0, "head": 0.5})
    >>> params = {"body.weight": torch.ones(()), "head.weight": torch.ones(())}
    >>> optimizer.update(params, optimizer.init(params), params, optimizer.hparams)[0]
    {'body.weight': tensor(-0.5000), 'head.weight': tensor(-0.2500)}
    """
    for hparam, by_name in ratios.items():
        for prefix, ratio in by_name.items():
            if not 0 <= ratio < math.inf:
                raise ValueError(
                    f"{hparam}[{prefix!r}] must be a finite ratio from 0 up, not {ratio}"
                )

    def spread(values: HParams) -> HParams:
        products = {
            hparam: {prefix: ratio * values[hparam] for prefix, ratio in by_name.items()}
            for hparam, by_name in ratios.items()
        }
        return {**values, **products}

    grouped = by_prefix(optimizer, dict.fromkeys(ratios, 0.0))  # for its check of the names

    def init(params: Params) -> PyTree:
        groups(params, spread(optimizer.hparams))
        return optimizer.init(params)

    @functools.wraps(optimizer.update)
    def update(
        grads: Params, state: PyTree, params: Params, hparams: HParams
    ) -> tuple[Params, PyTree]:
        return grouped.update(grads, state, params, spread(hparams))

    return optimizer._replace(init=init, update=update)


def groups(params: Params, hparams: HParams) -> list[tuple[list[str], HParams]]:
    """``[(names, hparams)]``: parameters that share all values, and these as scalars.

    Raises:
        ValueError, TypeError: as :func:`by_prefix` does at init.
    """
    if not is_a(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise TypeError("by_prefix needs params to be a flat dict with dotted names for keys")
    owners = {
        hparam: owners_by_prefix(params, hparam, value)
        for hparam, value in hparams.items()
        if is_a(value, Mapping)
    }
    members: dict[tuple[str, ...], list[str]] = {}
    for name in params:
        members.setdefault(tuple(owner[name] for owner in owners.values()), []).append(name)
    return [
        (names, {**hparams, **{h: hparams[h][p] for h, p in zip(owners, prefixes, strict=True)}})
        for prefixes, names in members.items()
    ]


def _cut(state: PyTree, params: Params) -> tuple[list[Any], Any]:
    """Flatten ``state`` down to dicts by parameter name, and the leaves outside of them."""

    def by_name(node: Any) -> bool:
        return is_a(node, dict) and node.keys() == params.keys()

    return tree_flatten(state, is_leaf=by_name)


def _pick(piece: Any, names: list[str]) -> Any:
    return {name: piece[name] for name in names} if is_a(piece, dict) else piece


def _merge(parts: tuple[Any, ...], params: Params) -> Any:
    if not is_a(parts[0], dict):
        return parts[0]
    merged = {name: value for part in parts for name, value in part.items()}
    return {name: merged[name] for name in params}
