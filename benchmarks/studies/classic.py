"""Two yardsticks written as one writes them by hand: plain training, and MARTHE in eager mode.

``classic`` is the formulation that imperative implementations use: the training gradient with
``create_graph``, a second backward pass through it for Hz, the tangent recursion of SGD with
momentum spelled out, a separate backward pass on the validation batch, and Python floats for
learning rate and hypergradient, each of which waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Step = Callable[[Any, Any], None]


def torch_optim(module: nn.Module, compiled: bool, adam: bool = False) -> Step:
    """Plain training with ``torch.optim``; compiled: forward and backward, and the update."""
    optimizer = (
        torch.optim.Adam(module.parameters(), lr=1e-4)
        if adam
        else torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    )

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(module(images), labels)

    def update() -> None:
        optimizer.step()

    if compiled:
        loss_of, update = torch.compile(loss_of, fullgraph=True), torch.compile(update)

    def step(batch: Any, val_batch: Any) -> None:
        optimizer.zero_grad()
        loss_of(*batch).backward()
        update()

    return step


def classic(
    module: nn.Module, lr: float = 1e-3, mu: float = 0.99, hyper_lr: float = 1e-8
) -> tuple[Step, list[float]]:
    """MARTHE for the learning rate of SGD with momentum 0.9; a step, and the h of each so far."""
    params, momentum = list(module.parameters()), 0.9
    buffer, z, z_buffer = ([torch.zeros_like(p) for p in params] for _ in range(3))
    losses: list[float] = []
    history: list[float] = []

    def step(batch: Any, val_batch: Any) -> None:
        nonlocal lr
        with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no second derivative
            loss = F.cross_entropy(module(batch[0]), batch[1])
        grads = torch.autograd.grad(loss, params, create_graph=True)
        products = torch.autograd.grad(grads, params, grad_outputs=z)
        with torch.no_grad():
            for i, (p, g, hz) in enumerate(zip(params, grads, products, strict=True)):
                buffer[i].mul_(momentum).add_(g)
                z_buffer[i].mul_(momentum * mu).add_(hz, alpha=mu)
                z[i].mul_(mu).sub_(buffer[i] + lr * z_buffer[i])
                p.sub_(lr * buffer[i])
        val_loss = F.cross_entropy(module(val_batch[0]), val_batch[1])
        outer = torch.autograd.grad(val_loss, params)
        history.append(float(_flat(outer) @ _flat(z)))
        lr = max(lr - hyper_lr * history[-1], 0.0)
        losses.extend([loss.item(), val_loss.item()])

    return step, history


def _flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
