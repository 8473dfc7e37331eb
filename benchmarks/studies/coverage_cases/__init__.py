"""What the study of coverage goes through: every layer and every loss of torch, with options.

``entries`` says how a layer is written down, ``layers`` and ``sequences`` are the table of layers,
``losses`` that of losses.
"""

from .entries import Layer
from .layers import LAYERS, LEFT_OUT
from .losses import LOSSES, Loss

__all__ = ["LAYERS", "LEFT_OUT", "LOSSES", "Layer", "Loss"]
