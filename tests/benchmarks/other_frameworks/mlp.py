"""The net that every stack serves: 64 -> 64 -> 64 -> 10, with the same random weights."""

import torch
from torch import nn

from training.zoo.nets.mlp import mlp

FEATURES, CLASSES = 64, 10


def build() -> nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return mlp(FEATURES, [64, 64], CLASSES).eval()
