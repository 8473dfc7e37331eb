"""From an ``nn.Module`` to a pure loss function, and back.

``copies`` takes a module out of the caller's hands, ``bound`` keeps its calls pure, ``parts`` makes
them; ``calls`` reads batches and outputs, ``reached`` sees what a criterion holds of the module,
``losses`` and ``from_module`` put these together;
``values`` writes a state back, ``running`` re-estimates BatchNorm's statistics.
"""

from .from_module import Functional, functionalize
from .running import recalibrate
from .values import averages, write_back

__all__ = ["Functional", "averages", "functionalize", "recalibrate", "write_back"]
