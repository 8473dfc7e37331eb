"""Pure functions as flat graphs of ATen operations, traced once and cleaned before they compile.

``kinds`` says when a graph serves, ``tracing`` makes it, ``aliases`` knows what shares memory and
what is written to, ``cleaning`` drops what is dead or double, ``zeros`` what is multiplied by zero,
``donation`` lets new values take the memory of old ones, ``compiling`` finds who compiles the rest.
"""

from .cleaning import without_dead, without_duplicates
from .compiling import Backend, compiler
from .donation import apart, donated
from .kinds import Kind, check_new, kind_of
from .tracing import Traced, examples, trace
from .zeros import without_zeros

__all__ = [
    "Backend",
    "Kind",
    "Traced",
    "apart",
    "check_new",
    "compiler",
    "donated",
    "examples",
    "kind_of",
    "trace",
    "without_dead",
    "without_duplicates",
    "without_zeros",
]
