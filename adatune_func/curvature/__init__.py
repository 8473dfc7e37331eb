"""Interchangeable ways to get the gradient and Hessian-vector products, and what wraps one.

``products`` are exact, ``differences`` and ``ggn`` approximate; ``wrappers`` and ``groups`` take
another batch or fewer products; ``loss`` is what is differentiated, ``loss_hparams`` its own
hyperparameters, ``explained`` its errors.
"""

from .differences import finite_difference
from .ggn import gauss_newton
from .groups import shared_product
from .loss import Gradient, ModelLoss
from .loss_hparams import (
    Loss,
    at_values,
    check_judged,
    outer_gradient,
    own_domains,
    own_hparams,
    plain_loss,
    products_along,
    tuned_in,
)
from .point import Point
from .products import exact, forward_over_reverse, no_curvature, reverse_over_reverse
from .wrappers import accumulate, clip_products, on_fraction, scale_products

__all__ = [
    "Gradient",
    "Loss",
    "ModelLoss",
    "Point",
    "accumulate",
    "at_values",
    "check_judged",
    "clip_products",
    "exact",
    "finite_difference",
    "forward_over_reverse",
    "gauss_newton",
    "no_curvature",
    "on_fraction",
    "outer_gradient",
    "own_domains",
    "own_hparams",
    "plain_loss",
    "products_along",
    "reverse_over_reverse",
    "scale_products",
    "shared_product",
    "tuned_in",
]
