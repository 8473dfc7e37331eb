"""Interchangeable ways to get the gradient and Hessian-vector products, and what wraps one.

``products`` are exact, ``differences`` and ``ggn`` approximate; ``wrappers`` and ``groups`` take
another batch or fewer products; ``loss`` is what is differentiated, ``explained`` its errors.
"""

from .differences import finite_difference
from .ggn import gauss_newton
from .groups import shared_product
from .loss import Gradient, ModelLoss
from .products import exact, forward_over_reverse, no_curvature, reverse_over_reverse
from .wrappers import accumulate, clip_products, on_fraction, scale_products

__all__ = [
    "Gradient",
    "ModelLoss",
    "accumulate",
    "clip_products",
    "exact",
    "finite_difference",
    "forward_over_reverse",
    "gauss_newton",
    "no_curvature",
    "on_fraction",
    "reverse_over_reverse",
    "scale_products",
    "shared_product",
]
