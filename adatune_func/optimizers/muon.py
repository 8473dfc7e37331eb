"""Muon: orthogonalised momentum for matrices, AdamW for the rest, under one lr."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..trees import HParams, Params, has_prefix, is_a, scalar_like
from .adam import AdamState, adamw
from .optimizer import Optimizer

AdjustLr: TypeAlias = Literal["match_rms_adamw", "original"]

#: What a step on an (A, B) matrix multiplies lr by.
ADJUST_LR: dict[str, Callable[[int, int], float]] = {
    "match_rms_adamw": lambda a, b: 0.2 * math.sqrt(max(a, b)),
    "original": lambda a, b: math.sqrt(max(1.0, a / b)),
}

#: Its tangent at 0 is 0. torch's stubs leave it untyped.
_norm: Callable[[Tensor], Tensor] = getattr(torch, "norm")  # noqa: B009

_SMALLEST_NORM = 1e-7  # what torch.optim.Muon calls eps


class MuonState(NamedTuple):
    exp_avg: Params  # of AdamW, or Muon's momentum
    exp_avg_sq: Params  # of AdamW; 0-d for a matrix under Muon, which has none
    step: Tensor  # steps taken so far, 0-d


def muon(
    lr: float = 1e-3,
    momentum: float = 0.95,
    weight_decay: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    *,
    rest: Sequence[str] = (),
    nesterov: bool = True,
    adjust_lr_fn: AdjustLr = "match_rms_adamw",
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    ns_dtype: torch.dtype | None = None,
) -> Optimizer:
    """Muon for matrices as ``torch.optim.Muon``, and :func:`adamw` for all else.

    For a matrix: ``m ← momentum·m + (1 - momentum)·g``, with Nesterov ``d = momentum·m + (1 -
    momentum)·g``, else ``d = m``; ``w ← w - lr·(c·NS(d) + weight_decay·w)``. NS brings the singular
    values of ``X = d/‖d‖`` near 1 by ``X ← aX + (bS + cS²)X`` with ``S = XXᵀ``, ``ns_steps`` times.
    lr and weight_decay are those of both kinds; beta1, beta2, eps are AdamW's alone.

    NS is a polynomial, so tangents are exact; they grow as ``1/‖d‖`` where d is small.

    Args:
        rest: prefixes of names (as in :func:`by_prefix`) of matrices that AdamW takes: embeddings
            and the head, as Muon's authors say. Vectors, and whatever has not 2 dimensions
            (weights of convolutions), go there by themselves.
        adjust_lr_fn: ``c = 0.2·√max(A, B)`` for an (A, B) matrix, "match_rms_adamw" (the default
            here, as one lr serves both kinds), or ``√max(1, A/B)``, "original" (torch's default).
        ns_dtype: in which NS works, by default that of the parameters. torch.optim.Muon rounds to
            ``torch.bfloat16``; so rounded, tangents have that accuracy, 3 digits.

    Raises:
        ValueError: for a beta outside [0, 1) and an unknown ``adjust_lr_fn``; at ``init``, for a
            prefix in ``rest`` that no matrix has.
        TypeError: at ``init``, when ``params`` is not a flat dict with names for keys.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv
    2502.16982.
    """
    if adjust_lr_fn not in ADJUST_LR:
        raise ValueError(
            f"adjust_lr_fn must be one of {', '.join(ADJUST_LR)}, got {adjust_lr_fn!r}"
        )
    adam = adamw(lr, beta1, beta2, eps, weight_decay)

    def is_matrix(name: str, w: Tensor) -> bool:
        return w.ndim == 2 and not any(has_prefix(name, prefix) for prefix in rest)

    def init(params: Params) -> MuonState:
        _check(params, rest)
        zeros = {name: torch.zeros_like(w) for name, w in params.items()}
        square = {n: w.new_zeros(() if is_matrix(n, w) else w.shape) for n, w in params.items()}
        return MuonState(zeros, square, scalar_like(params, 0.0))

    def matrix_step(w: Tensor, g: Tensor, m: Tensor, hparams: HParams) -> tuple[Tensor, Tensor]:
        mu = hparams["momentum"]
        m = mu * m + (1 - mu) * g
        d = mu * m + (1 - mu) * g if nesterov else m
        direction = _newton_schulz(d.to(ns_dtype or d.dtype), ns_coefficients, ns_steps).to(d.dtype)
        direction = ADJUST_LR[adjust_lr_fn](*w.shape) * direction
        return -hparams["lr"] * (direction + hparams["weight_decay"] * w), m

    def update(
        grads: Params, state: MuonState, params: Params, hparams: HParams
    ) -> tuple[Params, MuonState]:
        others = [name for name, w in params.items() if not is_matrix(name, w)]
        of_others = (
            {n: tree[n] for n in others}
            for tree in (grads, state.exp_avg, state.exp_avg_sq, params)
        )
        g, m, v, w = of_others
        updates, moved = adam.update(g, AdamState(m, v, state.step), w, hparams)
        exp_avg = dict(moved.exp_avg)
        for name in params:
            if name not in updates:
                updates[name], exp_avg[name] = matrix_step(
                    params[name], grads[name], state.exp_avg[name], hparams
                )
        return _in_order(params, updates), MuonState(
            _in_order(params, exp_avg),
            _in_order(params, {**state.exp_avg_sq, **moved.exp_avg_sq}),
            moved.step,
        )

    return Optimizer(init, update, {"lr": lr, "momentum": momentum, **adam.hparams})


def _newton_schulz(d: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """``U S' Vᵀ`` for ``d = U S Vᵀ``, with S' between about 0.7 and 1.2."""
    a, b, c = coefficients
    x = d.T if d.shape[0] > d.shape[1] else d
    x = x / _norm(x).clamp(min=_SMALLEST_NORM)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if d.shape[0] > d.shape[1] else x


def _in_order(params: Params, tree: dict[str, Any]) -> dict[str, Any]:
    return {name: tree[name] for name in params}


def _check(params: Params, rest: Sequence[str]) -> None:
    if not is_a(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise TypeError("muon needs params to be a flat dict with dotted names for keys")
    matrices = [name for name, w in params.items() if w.ndim == 2]
    for prefix in rest:
        if not any(has_prefix(name, prefix) for name in matrices):
            raise ValueError(
                f"no matrix has the prefix {prefix!r} of rest; matrices: {', '.join(matrices)}"
            )
