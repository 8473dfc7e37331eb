"""Tune learning rates and other hyperparameters while a network trains, by hypergradients."""

from . import columns, discount, hvp, hyper_update, optimizers, recursion, types
from .check import check_tangents
from .curvature import gauss_newton
from .discount import Discount, adaptive, constant
from .functional import Functional, ModelLoss, functionalize, write_back
from .hvp import (
    exact,
    finite_difference,
    forward_over_reverse,
    no_curvature,
    reverse_over_reverse,
    shared_product,
)
from .hvp_wrappers import accumulate, clip_products, on_fraction, scale_products
from .hyper_update import DOMAINS, HyperUpdate, Signal, additive
from .optimizers import Optimizer, adam, adamw, sgd
from .presets import presets
from .tuner import Info, Tuner, TunerState, hd, marthe, plain, rtho
from .wrappers import by_prefix, clip_grad_norm, clip_grads

__version__ = "0.1.0"

__all__ = [
    "DOMAINS",
    "Discount",
    "Functional",
    "HyperUpdate",
    "Info",
    "ModelLoss",
    "Optimizer",
    "Signal",
    "Tuner",
    "TunerState",
    "accumulate",
    "adam",
    "adamw",
    "adaptive",
    "additive",
    "by_prefix",
    "check_tangents",
    "clip_grad_norm",
    "clip_grads",
    "clip_products",
    "columns",
    "constant",
    "discount",
    "exact",
    "finite_difference",
    "forward_over_reverse",
    "functionalize",
    "gauss_newton",
    "hd",
    "hvp",
    "hyper_update",
    "marthe",
    "no_curvature",
    "on_fraction",
    "optimizers",
    "plain",
    "presets",
    "recursion",
    "reverse_over_reverse",
    "rtho",
    "scale_products",
    "sgd",
    "shared_product",
    "types",
    "write_back",
]
