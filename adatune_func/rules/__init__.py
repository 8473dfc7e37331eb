"""How hypergradients move hyperparameters, and how long a tangent is remembered.

``hyper_update`` says what a rule is, has the papers' additive one and the domains;
``relative_rule`` is the default, ``coordinates`` the lines it moves on; ``discount`` is where mu
comes from, ``bound`` how long a tangent may get, ``snr`` signal to noise.
"""

from . import bound, discount, hyper_update, snr
from .bound import Bound, Trail, begin_again, cut
from .discount import Discount, adaptive, constant, lagged
from .hyper_update import (
    DOMAINS,
    AdditiveState,
    HyperUpdate,
    additive,
    bounds,
    stepped_back,
    within,
)
from .relative_rule import relative
from .snr import SnrState

__all__ = [
    "AdditiveState",
    "Bound",
    "DOMAINS",
    "Discount",
    "HyperUpdate",
    "SnrState",
    "Trail",
    "adaptive",
    "constant",
    "additive",
    "begin_again",
    "bound",
    "bounds",
    "cut",
    "discount",
    "hyper_update",
    "lagged",
    "relative",
    "snr",
    "stepped_back",
    "within",
]
