"""Tune learning rates and other hyperparameters while a network trains, by hypergradients."""

from . import checkpoint, discount, guard, hvp, hyper_update, recursion, schedules, search
from .averaging import averaged, averages
from .check import check_tangents
from .checkpoint import load, save
from .discount import Discount, adaptive
from .functional import Functional, ModelLoss, functionalize, write_back
from .hvp import (
    exact,
    finite_difference,
    forward_over_reverse,
    no_curvature,
    reverse_over_reverse,
)
from .hvp_gauss_newton import gauss_newton
from .hvp_wrappers import accumulate, clip_products, on_fraction, scale_products
from .hyper_update import DOMAINS, HyperUpdate, additive
from .many_groups import shared_product
from .optimizers import Optimizer, adam, adamw, sgd
from .plain_training import plain
from .presets import presets
from .relative_rule import relative
from .state import Info, Tuner, TunerState
from .tuner import hd, marthe, rtho
from .types import Signal
from .wrappers import by_prefix, clip_grad_norm, clip_grads

__version__ = "0.1.0"

__all__ = [
    # a module and its loss as pure functions
    "Functional",
    "ModelLoss",
    "functionalize",
    "write_back",
    # optimizers
    "Optimizer",
    "adam",
    "adamw",
    "averaged",
    "averages",
    "by_prefix",
    "clip_grad_norm",
    "clip_grads",
    "sgd",
    # curvature
    "accumulate",
    "clip_products",
    "exact",
    "finite_difference",
    "forward_over_reverse",
    "gauss_newton",
    "hvp",
    "no_curvature",
    "on_fraction",
    "reverse_over_reverse",
    "scale_products",
    "shared_product",
    # the discount mu
    "Discount",
    "adaptive",
    "discount",
    # how hyperparameters move
    "DOMAINS",
    "HyperUpdate",
    "Signal",
    "additive",
    "guard",
    "hyper_update",
    "relative",
    # tuners
    "Info",
    "Tuner",
    "TunerState",
    "hd",
    "marthe",
    "plain",
    "presets",
    "recursion",
    "rtho",
    # around training
    "check_tangents",
    "checkpoint",
    "load",
    "save",
    "schedules",
    "search",
]
