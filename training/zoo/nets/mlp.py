"""Multi-layer perceptron (Rumelhart, Hinton, Williams, 1986), with ReLU."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(
    num_features: int, hidden_sizes: Sequence[int], num_classes: int, dropout: float = 0.0, flatten: bool = False
) -> nn.Sequential:
    """Build num_features -> hidden_sizes[0] -> ... -> num_classes; num_classes is 1 for a regression.

    Input float32 (B, num_features), or with `flatten` an image (B, K, H, W) of as many values; output (B, num_classes).
    """
    layers: list[nn.Module] = [nn.Flatten()] if flatten else []
    sizes = [num_features, *hidden_sizes]
    for in_features, out_features in pairwise(sizes):
        layers += [nn.Linear(in_features, out_features), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
