"""Residual net (He, Zhang, Ren, Sun, 2016) for small pictures: the paper's three stages, after a stem that halves."""
# Shapes: B rows, H height, W width.

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu


class Residual(nn.Module):
    """relu(x + F(x)), where F is two normalised convolutions; the first may halve the picture (stride 2)."""

    def __init__(self, wide: int, narrow: int, stride: int = 1) -> None:
        super().__init__()
        # The normalisation has a bias of its own.
        self.first = nn.Conv2d(wide, narrow, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(narrow)
        self.second = nn.Conv2d(narrow, narrow, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(narrow)
        self.stride, self.more = stride, narrow - wide

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, wide, H, W) to (B, narrow, H / stride, W / stride)."""
        y = relu(self.first_norm(self.first(x)))
        # What is added must have y's shape: every other pixel, and zeros for the channels that are new (option A).
        shortcut = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return relu(shortcut + self.second_norm(self.second(y)))


class ChannelsLast(nn.Module):
    """The same numbers, a pixel's channels side by side in memory: convolutions after it are faster on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Any picture to itself."""
        return x.contiguous(memory_format=torch.channels_last)


def resnet(channels: int, classes: int, width: int = 24, blocks: int = 1) -> nn.Sequential:
    """Build a net of 6 * blocks + 2 layers; the second and third stage halve the picture and double the width.

    Input float32 (B, channels, H, W), output logits (B, classes).
    """
    stages: list[nn.Module] = []
    wide = width
    for stage in range(3):
        narrow = width * 2**stage
        for block in range(blocks):
            stages.append(Residual(wide, narrow, stride=2 if stage and not block else 1))
            wide = narrow
    return nn.Sequential(
        nn.Conv2d(channels, width, 5, stride=2, padding=2, bias=False),
        ChannelsLast(),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *stages,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(wide, classes),
    )
