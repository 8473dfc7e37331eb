"""Tune learning rates and other hyperparameters while a network trains, by hypergradients."""

from typing import TYPE_CHECKING, Any

from . import checkpoint, guard, recursion, renamed, replicas, schedules, search, shapes
from . import curvature as hvp
from .check import check_tangents
from .checkpoint import load, save
from .curvature import (
    Loss,
    ModelLoss,
    accumulate,
    clip_products,
    exact,
    finite_difference,
    forward_over_reverse,
    gauss_newton,
    no_curvature,
    on_fraction,
    reverse_over_reverse,
    scale_products,
    shared_product,
)
from .functional import Functional, averages, functionalize, recalibrate, write_back
from .horizon import cool_down, effective_lr
from .jit import jit
from .methods import hd, rtho
from .optimizers import (
    Optimizer,
    adam,
    adamw,
    averaged,
    by_prefix,
    by_ratio,
    clip_grad_norm,
    clip_grads,
    lion,
    muon,
    safe_sqrt,
    scheduled,
    sgd,
)
from .plain_training import plain
from .presets import presets
from .recipe import Recipe, recipe
from .rules import (
    DOMAINS,
    Bound,
    Discount,
    HyperUpdate,
    adaptive,
    additive,
    begin_again,
    bound,
    cut,
    discount,
    hyper_update,
    relative,
)
from .sharding import resharded, sharded
from .state import Info, Tuner, TunerState
from .trees import Signal
from .tuner import marthe
from .windows import windowed, windows

__version__ = "0.2.0"


if not TYPE_CHECKING:  # a type checker shall know what is not there

    def __getattr__(name: str) -> Any:
        """Names of older versions, with a warning."""
        return renamed.found(name)


__all__ = [
    # a module and its loss as pure functions
    "Functional",
    "Loss",
    "ModelLoss",
    "functionalize",
    "recalibrate",
    "write_back",
    # optimizers
    "Optimizer",
    "adam",
    "adamw",
    "averaged",
    "averages",
    "by_prefix",
    "by_ratio",
    "clip_grad_norm",
    "clip_grads",
    "lion",
    "muon",
    "safe_sqrt",
    "scheduled",
    "sgd",
    "sharded",
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
    # the discount mu, and how long a tangent may get
    "Bound",
    "Discount",
    "adaptive",
    "begin_again",
    "bound",
    "cut",
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
    # a whole run
    "Recipe",
    "recipe",
    "windowed",
    "windows",
    # around training
    "check_tangents",
    "checkpoint",
    "jit",
    "cool_down",
    "effective_lr",
    "load",
    "replicas",
    "resharded",
    "save",
    "schedules",
    "search",
    "shapes",
]
