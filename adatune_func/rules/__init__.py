"""How hypergradients move hyperparameters, and how long a tangent is remembered.

``hyper_update`` says what a rule is, has the papers' additive one and the domains;
``relative_rule`` is the default; ``discount`` is where mu comes from, ``snr`` signal to noise.
"""

from . import discount, hyper_update, snr
from .discount import Discount, adaptive, constant, lagged
from .hyper_update import DOMAINS, AdditiveState, HyperUpdate, additive, bounds
from .relative_rule import relative
from .snr import SnrState

__all__ = [
    "AdditiveState",
    "DOMAINS",
    "Discount",
    "HyperUpdate",
    "SnrState",
    "adaptive",
    "constant",
    "additive",
    "bounds",
    "discount",
    "hyper_update",
    "lagged",
    "relative",
    "snr",
]
