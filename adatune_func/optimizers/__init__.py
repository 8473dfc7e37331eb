"""Optimizers as triples of pure pieces, and what wraps one and is an optimizer again.

``optimizer`` says what one is, ``sgd``, ``adam`` and ``muon`` equal ``torch.optim``, ``lion``
its paper; ``clipping``, ``groups``, ``scheduling`` and ``averaging`` wrap; ``checks`` looks at the
hyperparameters given.
"""

from .adam import AdamState, adam, adamw
from .averaging import AveragedState, averaged
from .checks import checked_hparams
from .clipping import clip_grad_norm, clip_grads
from .groups import by_prefix, by_ratio, groups
from .lion import LionState, lion
from .muon import MuonState, muon
from .optimizer import Optimizer, at_params
from .roots import safe_sqrt
from .scheduling import ScheduledState, begin_cooling, factor_of, scheduled, ticked
from .sgd import SGDState, sgd

__all__ = [
    "AdamState",
    "AveragedState",
    "LionState",
    "MuonState",
    "Optimizer",
    "SGDState",
    "ScheduledState",
    "adam",
    "adamw",
    "at_params",
    "averaged",
    "begin_cooling",
    "by_prefix",
    "by_ratio",
    "checked_hparams",
    "clip_grad_norm",
    "clip_grads",
    "factor_of",
    "groups",
    "lion",
    "muon",
    "safe_sqrt",
    "scheduled",
    "sgd",
    "ticked",
]
