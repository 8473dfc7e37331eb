"""How a hypergradient moves the hyperparameters.

A rule is ``HyperUpdate(init, update)`` with ``update(signal, state, hparams) -> (hparams, state)``.
Every rule keeps each hyperparameter inside its domain, and where it is when the signal is not
finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..trees import HParams, Signal, is_a, tree_leaves, tree_map

#: Where each hyperparameter may live, both ends included; other names are positive.
DOMAINS: dict[str, tuple[float, float]] = {
    "lr": (0.0, float("inf")),
    "weight_decay": (0.0, float("inf")),
    "eps": (1e-12, 1.0),
    "momentum": (0.0, 1 - 1e-6),
    "beta1": (0.0, 1 - 1e-6),
    "beta2": (0.0, 1 - 1e-6),
    "label_smoothing": (0.0, 1.0),
}
POSITIVE = (1e-12, float("inf"))


class HyperUpdate(NamedTuple):
    """``init(hparams) -> state``; ``update(signal, state, hparams) -> (hparams, state)``.

    ``longest`` is the longest step of training, relative to 1 + ‖w‖, with which the rule can work;
    where lr is tuned a longer one is a null step that lowers lr, and nothing lowers it below
    ``lowest``. ``back`` is what is left of a tuned lr where its tangent outgrew its path and began
    again. ``domains`` are name to (low, high) of all that it knows, and ``within(domains)`` is
    the rule that knows a loss's as well; ``None`` where it can be told none.
    """

    init: Callable[[HParams], Any]
    update: Callable[[Signal, Any, HParams], tuple[HParams, Any]]
    longest: float = math.inf
    lowest: float = 0.0
    back: float = 1.0
    domains: Mapping[str, tuple[float, float]] = DOMAINS
    within: Callable[[Mapping[str, tuple[float, float]]], HyperUpdate] | None = None


def stepped_back(rule: HyperUpdate, hparams: HParams, kept: HParams) -> HParams:
    """``hparams`` with ``back`` times each lr of whose tangent nothing was kept."""
    if "lr" not in hparams or rule.back == 1:
        return hparams
    lr = tree_map(
        lambda lr, kept: torch.where(kept > 0, lr, (rule.back * lr).clamp(min=rule.lowest)),
        *(hparams["lr"], kept["lr"]),
    )
    return {**hparams, "lr": lr}


def within(rule: HyperUpdate, domains: Mapping[str, tuple[float, float]]) -> HyperUpdate:
    """``rule`` for hyperparameters of a loss that says where they may live.

    Raises:
        ValueError: for a rule of one's own that cannot be told.
    """
    if not domains or not is_a(rule, HyperUpdate):  # init says that it is none
        return rule
    if rule.within is None:
        raise ValueError(
            f"the loss keeps {', '.join(domains)} in a domain, which this rule is not told: give "
            "it HyperUpdate(..., within=lambda domains: ...), or leave out the loss's domains"
        )
    return rule.within(domains)


class AdditiveState(NamedTuple):
    beta: HParams  # the hyper-learning-rates, one a hyperparameter
    alpha: Tensor  # how fast they adapt; 0 leaves them


def additive(
    hyper_lr: float | Mapping[str, float],
    alpha: float = 0.0,
    domains: Mapping[str, tuple[float, float]] | None = None,
) -> HyperUpdate:
    """``η ← clip(η - β h)``, then ``β ← max(β + α h η, 0)``: gradient descent on η.

    The rule of HD, RTHO and MARTHE. The second part, with the new η, is MARTHE's adaptation of β;
    ``alpha=0`` leaves it out. Where h is not finite nothing moves.

    Args:
        hyper_lr: β, in units of η² per unit of loss: about 1e-8 to 1e-3 with SGD, three to four
            decades less with Adam; one number for all, or one a name.
        alpha: α >= 0; AdaTune's default is 1e-6.
        domains: name to (low, high), on top of ``DOMAINS``.

    Raises:
        ValueError: at init, for a hyperparameter outside its domain or a negative hyper_lr or
            alpha.

    Sources: Baydin et al. 2018 (arXiv 1703.04782), Franceschi et al. 2017 (arXiv 1703.01785),
    Donini et al. 2020 (arXiv 1910.08525).
    """

    def init(hparams: HParams) -> AdditiveState:
        check_domains(hparams, domains)
        betas = {name: _pick(hyper_lr, name) for name in hparams}
        if not all(0 <= value < float("inf") for value in [*betas.values(), alpha]):
            raise ValueError(f"hyper_lr and alpha must be >= 0, got {hyper_lr} and {alpha}")
        beta = {
            name: tree_map(lambda eta, b=betas[name]: torch.full_like(eta, b), value)
            for name, value in hparams.items()
        }
        any_beta = next(iter(tree_leaves(beta)), torch.zeros(()))
        return AdditiveState(beta, torch.full_like(any_beta, alpha))

    def update(
        signal: Signal, state: AdditiveState, hparams: HParams
    ) -> tuple[HParams, AdditiveState]:
        low, high = bounds(hparams, domains)
        moved = tree_map(_descend, hparams, signal.hypergrads, state.beta, low, high)
        beta = tree_map(
            lambda b, h, eta: _where_finite(h, (b + state.alpha * h * eta).clamp(min=0.0), b),
            state.beta,
            signal.hypergrads,
            moved,
        )
        return moved, AdditiveState(beta, state.alpha)

    def told(others: Mapping[str, tuple[float, float]]) -> HyperUpdate:
        return additive(hyper_lr, alpha, {**others, **(domains or {})})

    return HyperUpdate(
        init,
        update,
        lowest=lowest_lr(domains),
        domains={**DOMAINS, **(domains or {})},
        within=told,
    )


def _descend(eta: Tensor, h: Tensor, beta: Tensor, low: float, high: float) -> Tensor:
    return _where_finite(h, (eta - beta * h).clamp(low, high), eta)


def _where_finite(h: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``new``, but ``old`` where h is not finite: clamp would make a bound of an infinite h."""
    return torch.where(h.isfinite(), keep_finite(new, old), old)


def keep_finite(new: Tensor, old: Tensor) -> Tensor:
    """``new`` where it is finite, else ``old``: clamp passes NaN on, this does not."""
    return torch.where(torch.isfinite(new), new, old)


def bounds(
    hparams: HParams, domains: Mapping[str, tuple[float, float]] | None = None
) -> tuple[HParams, HParams]:
    """Trees of lower and upper ends, shaped as hparams, of plain floats."""
    table = {**DOMAINS, **(domains or {})}
    low, high = (
        {
            name: tree_map(lambda _, b=table.get(name, POSITIVE)[side]: b, value)
            for name, value in hparams.items()
        }
        for side in (0, 1)
    )
    return low, high


def lowest_lr(domains: Mapping[str, tuple[float, float]] | None) -> float:
    """The lower end of lr's domain."""
    return {**DOMAINS, **(domains or {})}["lr"][0]


def check_domains(
    hparams: HParams, domains: Mapping[str, tuple[float, float]] | None = None
) -> None:
    """Raise ValueError for a hyperparameter that starts outside its domain or is not finite."""
    low, high = bounds(hparams, domains)
    for name, value in hparams.items():
        ends = zip(tree_leaves(value), tree_leaves(low[name]), tree_leaves(high[name]), strict=True)
        for eta, lowest, highest in ends:
            if not bool(torch.isfinite(eta)) or not lowest <= float(eta) <= highest:
                own = "" if name in DOMAINS else "; domains= widens it"
                raise ValueError(
                    f"{name} = {float(eta):g} lies outside [{lowest:g}, {highest:g}]{own}"
                )


def _pick(value: float | Mapping[str, float], name: str) -> float:
    if not isinstance(value, Mapping):
        return float(value)
    if name not in value:
        raise ValueError(f"hyper_lr has no entry for {name!r}; it has {', '.join(value)}")
    return float(value[name])
