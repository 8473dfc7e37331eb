"""Optimizers as triples of pure pieces, and what wraps one and is an optimizer again.

``optimizer`` says what one is, ``sgd`` and ``adam`` equal ``torch.optim``, ``clipping``, ``groups``
and ``averaging`` wrap; ``checks`` looks at the hyperparameters given for one.
"""

from .adam import AdamState, adam, adamw
from .averaging import AveragedState, averaged
from .checks import checked_hparams
from .clipping import clip_grad_norm, clip_grads
from .groups import by_prefix, groups
from .optimizer import Optimizer, at_params
from .roots import safe_sqrt
from .sgd import SGDState, sgd

__all__ = [
    "AdamState",
    "AveragedState",
    "Optimizer",
    "SGDState",
    "adam",
    "adamw",
    "at_params",
    "averaged",
    "by_prefix",
    "checked_hparams",
    "clip_grad_norm",
    "clip_grads",
    "groups",
    "safe_sqrt",
    "sgd",
]
