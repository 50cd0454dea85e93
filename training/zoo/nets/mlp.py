"""Multi-layer perceptron (Rumelhart, Hinton, Williams, 1986), with ReLU."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(
    features: int, hidden: Sequence[int], classes: int, dropout: float = 0.0, flatten: bool = False
) -> nn.Sequential:
    """Build features -> hidden[0] -> ... -> classes; input float32 (B, features), output logits (B, classes).

    With `flatten` the input may be a picture (B, K, H, W) of as many numbers.
    """
    layers: list[nn.Module] = [nn.Flatten()] if flatten else []
    for wide, narrow in pairwise([features, *hidden]):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear([features, *hidden][-1], classes))
