"""Is what training follows the gradient of its loss, and its derivative a Hessian?

With ``detach``, ``.item()``, ``no_grad`` or a straight-through estimator in the loss, g is no slope
of L, and the derivative of g, which training has, is no second derivative, which products have:

    <g, z> ≠ dL(w + ε z)/dε        <D_z g, v> ≠ <D_v g, z>
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..trees import dot, norm, tree_map
from .parts import along, column
from .run import Moment, Run, gradient, loss, seed


class Evidence(NamedTuple):
    """Relative errors, 0 for a loss that is differentiated as it is."""

    slope: float  # of <g, Z_k> and the loss's difference along Z_k, over ‖g‖ ‖Z_k‖
    asymmetry: float  # of the gradient's differences along Z_k and a random direction


def evidence(run: Run, k: int, t: int, moment: Moment) -> Evidence:
    """What differences along Z_k say of step t, where Z_k is not 0."""
    w, z = moment.u.params, column(moment.z.params, k)
    rise, _ = along(run, lambda p: loss(run, t, p, moment.buffers), w, z)
    slope = (dot(moment.grads, z) - rise).abs() / (norm(moment.grads) * norm(z))
    seed(1)
    v = tree_map(torch.randn_like, w)

    def gradients(p: object) -> object:
        return gradient(run, t, p, moment.buffers)[0]

    (dz, _), (dv, _) = along(run, gradients, w, z), along(run, gradients, w, v)
    gap = (dot(dz, v) - dot(dv, z)).abs()
    return Evidence(float(slope), float(gap / (norm(dz) * norm(v) + norm(dv) * norm(z))))
