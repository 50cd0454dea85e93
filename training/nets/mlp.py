"""Multi-layer perceptron (Rumelhart, Hinton, Williams, 1986), with ReLU."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(features: int, hidden: Sequence[int], classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Build features -> hidden[0] -> ... -> classes; input float32 (B, features), output logits (B, classes)."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise([features, *hidden]):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear([features, *hidden][-1], classes))
