"""Central differences of what a tuner differentiates, part by part and as a whole.

``run`` trains and differences whole runs, ``parts`` one product, one update, one outer gradient,
``precision`` sees what is computed in less than float64, ``words`` says what was found.
"""

from .parts import PartCheck, part_checks
from .precision import at_its_precision, in_float64
from .run import End, Moment, Run, difference, trace, trained, with_cheap_gradients
from .words import explained, tolerance

__all__ = [
    "End",
    "Moment",
    "PartCheck",
    "Run",
    "at_its_precision",
    "difference",
    "explained",
    "in_float64",
    "part_checks",
    "tolerance",
    "trace",
    "trained",
    "with_cheap_gradients",
]
