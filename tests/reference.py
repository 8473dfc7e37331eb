"""Slow, clear twins of what the package computes: reverse mode, differences, dense Jacobians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.func import grad, jacrev

import adatune_func as atf
from adatune_func.trees import math_attention, tree_flatten, tree_map, tree_unflatten
from tests.cases import Problem


def train(
    problem: Problem,
    optimizer: atf.Optimizer,
    hparams: Any,
    mu: float = 1.0,
    begin: atf.TunerState | None = None,
    shares: Sequence[float] | None = None,
) -> Any:
    """The outer loss after training on all batches, differentiable by autograd in ``hparams``.

    Autograd's own double backward through an ordinary unrolled loop: no torch.func in sight. A
    discount mu < 1 scales what passes from one step to the next, ``u → stop(u) + mu (u -
    stop(u))``; so does a bound, by the share that it left after each step. A window starts where
    ``begin`` is, not at the problem's parameters.
    """
    params, buffers, opt_state = problem.params, problem.buffers, optimizer.init(problem.params)
    if begin is not None:
        params, buffers, opt_state = begin.params, begin.buffers, begin.opt_state
    params = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    loss_fn, outer_loss_fn = losses_at(problem.loss_fn, hparams)
    for t, (batch, _) in enumerate(problem.batches):
        share = mu * (shares[t - 1] if shares and t else 1.0)
        params, opt_state = tree_map(
            lambda u, s=share: u.detach() + s * (u - u.detach()), (params, opt_state)
        )
        loss, buffers = loss_fn(params, buffers, batch)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        updates, opt_state = optimizer.update(
            dict(zip(params, grads, strict=True)),
            opt_state,
            params,
            {**optimizer.hparams, **{n: hparams[n] for n in hparams if n in optimizer.hparams}},
        )
        params = {name: p + updates[name] for name, p in params.items()}
        buffers = tree_map(torch.Tensor.detach, buffers)
    judged = optimizer.judged(params, opt_state)
    return outer_loss_fn(judged, buffers, problem.batches[-1][1])[0]


def losses_at(loss_fn: Any, hparams: Any) -> tuple[Any, Any]:
    """The training loss at hyperparameters of its own, and the outer loss, as a rule without."""
    if not isinstance(loss_fn, atf.Loss):
        return loss_fn, loss_fn
    own = {n: hparams[n] for n in loss_fn.hparams if n in hparams}
    own = {n: torch.stack(v) if isinstance(v, tuple) else v for n, v in own.items()}
    values = {**loss_fn.hparams, **own}

    def training(params: Any, buffers: Any, batch: Any) -> Any:
        return loss_fn.fn(params, buffers, batch, values)

    return training, loss_fn.plain or training


def reverse_mode(
    problem: Problem,
    optimizer: atf.Optimizer,
    hparams: dict[str, Any],
    mu: float = 1.0,
    begin: atf.TunerState | None = None,
    shares: Sequence[float] | None = None,
) -> dict[str, Any]:
    """The hypergradient by backpropagation through the whole run."""
    eta = tree_map(lambda v: torch.tensor(v, dtype=torch.float64, requires_grad=True), hparams)
    leaves, treedef = tree_flatten(eta)
    with math_attention():  # no other has the derivative of its gradient
        loss = train(problem, optimizer, eta, mu, begin, shares)
        return tree_unflatten(treedef, list(torch.autograd.grad(loss, leaves)))


def central_difference(
    problem: Problem, optimizer: atf.Optimizer, hparams: dict[str, Any], name: str, entry: int = 0
) -> float:
    """The hypergradient by two runs a hair apart, so that no ReLU is caught between them.

    ``entry`` of a vector.
    """
    values, treedef = tree_flatten(hparams[name])
    delta = 1e-6 * max(min(values[entry], 1 - values[entry]), 1e-2)
    ends = []
    for sign in (1, -1):
        moved = tree_map(lambda v: torch.tensor(v, dtype=torch.float64), hparams)
        near = [v + sign * delta * (i == entry) for i, v in enumerate(values)]
        near = [torch.tensor(v, dtype=torch.float64) for v in near]
        moved[name] = tree_unflatten(treedef, near)
        ends.append(float(train(problem, optimizer, moved).detach()))
    return (ends[0] - ends[1]) / (2 * delta)


def brute_force(
    problem: Problem, optimizer: atf.Optimizer, hparams: dict[str, float], mu: float
) -> torch.Tensor:
    """``Σ_s mu^(T-1-s) ∇E · A_{T-1} ... A_{s+1} B_s`` with dense Jacobians, shape (K,)."""
    opt_state = optimizer.init(problem.params)
    leaves, treedef = tree_flatten((problem.params, opt_state))
    sizes = [leaf.numel() for leaf in leaves]

    def unpack(flat: torch.Tensor) -> Any:
        parts = [p.reshape(o.shape) for p, o in zip(flat.split(sizes), leaves, strict=True)]
        return tree_unflatten(treedef, parts)

    u = torch.cat([leaf.reshape(-1) for leaf in leaves])
    eta = torch.tensor(list(hparams.values()), dtype=torch.float64)
    a_matrices, b_matrices = [], []
    for batch, _ in problem.batches:

        def phi(u: torch.Tensor, eta: torch.Tensor, batch: Any = batch) -> torch.Tensor:
            params, opt_state = unpack(u)
            grads = grad(lambda p: problem.loss_fn(p, problem.buffers, batch)[0])(params)
            values = {**optimizer.hparams, **dict(zip(hparams, eta.unbind(), strict=True))}
            updates, opt_state = optimizer.update(grads, opt_state, params, values)
            moved = (tree_map(torch.add, params, updates), opt_state)
            return torch.cat([leaf.reshape(-1) for leaf in tree_flatten(moved)[0]])

        a_matrices.append(jacrev(phi, argnums=0)(u, eta))
        b_matrices.append(jacrev(phi, argnums=1)(u, eta))
        u = phi(u, eta)
    last = problem.batches[-1][1]

    def outer_loss(u: torch.Tensor) -> torch.Tensor:
        return problem.loss_fn(optimizer.judged(*unpack(u)), problem.buffers, last)[0]

    outer = grad(outer_loss)(u)
    total = torch.zeros_like(eta)
    for s, b in enumerate(b_matrices):
        column = b
        for a in a_matrices[s + 1 :]:
            column = mu * a @ column
        total = total + outer @ column
    return total
