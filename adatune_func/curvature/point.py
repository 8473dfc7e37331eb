"""Where a loss with tuned hyperparameters is differentiated: at its parameters and at these."""

from __future__ import annotations

from typing import NamedTuple

from ..trees import HParams, Params


class Point(NamedTuple):
    """``(w, η)``, or a direction or K columns of them.

    To products it is a tree of parameters like any other, ``∇²L`` along ``(Z_k, e_k)`` is

        ∇²L (Z_k, e_k) = (∇²_ww L Z_k + ∂²L/∂w∂η_k, ...) ,

    what training's gradient moves by, mixed term and all, and another part that nobody needs. Only
    who drops, scales or deals out products has to know the parts.
    """

    params: Params
    hparams: HParams
