"""How every convolutional network here starts.

Convolutions are Xavier-uniform with gain √2: w ~ U(-a, a), a = √2 √(6 / (fan_in + fan_out)), their
biases 0; BatchNorm is the identity, weight 1 and bias 0. Linear layers keep torch's default.

Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural
networks"; the gain √2 for ReLU is He et al. 2015's (arXiv 1502.01852).
"""

from math import sqrt

from torch import nn


def initialize(network: nn.Module) -> None:
    """Draw the weights of `network` afresh from torch's global generator, in place."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight, gain=sqrt(2))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
