"""The recursion behind HD, MARTHE and RTHO: one tangent, carried along with training.

Training is a map ``u_{t+1} = Phi(u_t, η)`` on ``u = (w, s)``, the parameters and the optimizer's
state, steered by hyperparameters η. How u moves with η is a tangent Z with one column for each
tuned scalar. It obeys, with ``A = ∂Phi/∂u`` and ``B = ∂Phi/∂η``,

    Z_{t+1} = A_t (mu Z_t) + B_t ,        h = <∇E(w), Z^w>

and h is the hypergradient of an outer loss E. With mu = 1 h is the derivative of the whole run
(RTHO, Franceschi et al. 2017), with mu = 0 of the last step (HD, Baydin et al. 2018), and
between it forgets at the rate mu (MARTHE, Donini et al. 2020). A is never formed: Phi sees w
twice, through the gradient of the training loss, where an ``hvp`` gives the tangent ``Hz``,
and through the optimizer, where ``jvp`` gives it for whatever optimizer it is. What stands inside
the training loss acts through that gradient alone: the product is taken along ``(Z_k, e_k)``.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from .optimizers import Optimizer
from .trees import HParams, Params, PyTree, Signal, columns, jvp, norm, tree_leaves, tree_map


class Inner(NamedTuple):
    """``u = (w, s)``, what training moves; or Z, with K columns on dim 0 of each leaf."""

    params: Params
    opt_state: PyTree


def phi(optimizer: Optimizer, grads: Params, u: Inner, hparams: HParams) -> Inner:
    """One step of training, ``u ← Phi(u, η)``: ``hparams`` over the optimizer's own values.

    Those that stand in the loss are in ``grads`` already.
    """
    tuned = {name: value for name, value in hparams.items() if name in optimizer.hparams}
    updates, opt_state = optimizer.update(
        grads, u.opt_state, u.params, {**optimizer.hparams, **tuned}
    )
    return Inner(tree_map(torch.add, u.params, updates), opt_state)


def advance(
    optimizer: Optimizer,
    grads: Params,
    dg: Params,
    u: Inner,
    z: Inner,
    hparams: HParams,
) -> tuple[Inner, Inner]:
    """One step of training and of its tangent: ``(u, Z) ← (Phi(u, η), A z + B)`` with ``z = mu Z``.

    ``grads`` is the training gradient at w and ``dg`` its tangent, ``H z`` and, in the columns of
    what stands in the loss, the mixed term ``∂²L/∂w∂η``.
    """
    if not tree_leaves(hparams):  # nothing is tuned: a step of plain training, no columns
        return phi(optimizer, grads, u, hparams), z
    primals = (grads, u, hparams)
    tangents = (dg, z, columns.basis(hparams))
    moved, z = columns.over_columns(
        lambda column: jvp(functools.partial(phi, optimizer), primals, column), tangents
    )
    return columns.first(moved), z


def discounted(mu: Tensor, z: PyTree) -> PyTree:
    """``mu z``, where mu = 0 forgets even what is not finite (0·inf would be NaN).

    mu is 0-d, or has shape (K,) and is one number a column.
    """

    def of(leaf: Tensor) -> Tensor:
        # A 0-d tensor promotes no dtype, one with dimensions would.
        share = mu if mu.ndim == 0 else mu.to(leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1))
        return torch.where(share == 0, 0.0, share * leaf)

    return tree_map(of, z)


def hypergradient(
    outer_grads: Params, tangent: Params, hparams: HParams, direct: HParams | None = None
) -> Signal:
    """``h_k = <∇E, Z_k> + ∂E/∂η_k`` and the cosine of ∇E and Z_k, which is 0 where one of them is.

    ``outer_grads`` is ∇E where the outer loss is taken, ``tangent`` the K columns of Z there,
    ``direct`` the second term by name where E has hyperparameters itself.
    """
    h = columns.dots(outer_grads, tangent)
    scale = torch.sqrt(columns.squares(tangent)) * norm(outer_grads)
    cosine = torch.where(scale > 0, h / torch.where(scale > 0, scale, 1.0), 0.0)
    hypergrads = columns.unstack(h, hparams)
    for name, slope in (direct or {}).items():
        hypergrads[name] = tree_map(torch.add, hypergrads[name], slope)
    ones = tree_map(torch.ones_like, hypergrads)
    return Signal(hypergrads, columns.unstack(cosine, hparams), here=hypergrads, trust=ones)
