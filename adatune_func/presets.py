"""Arguments of :func:`marthe` that are good bargains between price and curvature.

Measured with SGD and momentum, see ``curvature.py`` and ``speed.py`` in ``benchmarks/studies``; the
floors are matrix work over plain training:

* ``exact``: whole curvature, validation batch. Floor 4.
* ``balanced``: Gauss-Newton curvature of half the batch, judged by the next training batch. Floor
  11/6. Needs a loss from ``functionalize`` (or a :class:`ModelLoss`).
* ``smooth``: finite differences, judged by the next training batch. Floor 2. As good as exact for
  networks without kinks (GELU, SiLU or tanh, average pooling) and dropout; with ReLU or max-pooling
  worse than no curvature at all. Needs gradients only, so that fused attention works.
* ``fast``: Gauss-Newton curvature of an eighth of the batch at a quarter of its size, judged by the
  next training batch. Floor 29/24. Meant for batches of 64 or more. Needs what ``balanced`` needs.
  So little curvature sees a short horizon, which lets lr decay early: a longer memory makes up for
  it, mu 0.998.
"""

from __future__ import annotations

from typing import Any

from .curvature import exact, finite_difference, gauss_newton, on_fraction, scale_products

presets: dict[str, dict[str, Any]] = {
    "exact": {"hvp": exact, "outer": "validation"},
    "balanced": {"hvp": on_fraction(gauss_newton, 1 / 2), "outer": "next_batch"},
    "smooth": {"hvp": finite_difference(), "outer": "next_batch"},
    "fast": {
        "hvp": scale_products(on_fraction(gauss_newton, 1 / 8), 1 / 4),
        "outer": "next_batch",
        "mu": 0.998,
    },
}
