"""Many runs in one vmapped step, and the search for a hyper-learning-rate made of them.

``population`` stacks states and sweeps over them, ``hyper_lr`` searches.
"""

from .hyper_lr import Found, find_hyper_lr
from .population import Batches, Sweep, looped, runner, stack, sweep, table, unstack, vmapped

__all__ = [
    "Batches",
    "Found",
    "Sweep",
    "find_hyper_lr",
    "looped",
    "runner",
    "stack",
    "sweep",
    "table",
    "unstack",
    "vmapped",
]
