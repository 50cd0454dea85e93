"""Residual net (He, Zhang, Ren, Sun, 2016) for small images: the paper's three CIFAR stages after a stride-2 stem."""
# Shapes: B rows, K input channels, H height, W width, C classes.

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu


class BasicBlock(nn.Module):
    """relu(x + F(x)), where F is two convolutions with batch normalization; the first may have stride 2."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        # No bias in the convolutions: batch normalization has its own.
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride, self.extra_channels = stride, out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        y = relu(self.bn1(self.conv1(x)))
        # Shortcut without weights (the paper's option A): subsample, and zero-pad the new channels.
        shortcut = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))
        return relu(shortcut + self.bn2(self.conv2(y)))


class ChannelsLast(nn.Module):
    """Identity that switches to the channels_last memory format, in which convolutions are faster on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, K, H, W) to the same shape."""
        return x.contiguous(memory_format=torch.channels_last)


def resnet(in_channels: int, num_classes: int, base_channels: int = 24, blocks_per_stage: int = 1) -> nn.Sequential:
    """Build a net of 6 * blocks_per_stage + 2 layers; stages two and three halve the size and double the channels.

    Input float32 (B, in_channels, H, W), output logits (B, num_classes).
    """
    stages: list[nn.Module] = []
    channels = base_channels
    for stage in range(3):
        out_channels = base_channels * 2**stage
        for block in range(blocks_per_stage):
            stages.append(BasicBlock(channels, out_channels, stride=2 if stage and not block else 1))
            channels = out_channels
    return nn.Sequential(
        nn.Conv2d(in_channels, base_channels, 5, stride=2, padding=2, bias=False),
        ChannelsLast(),
        nn.BatchNorm2d(base_channels),
        nn.ReLU(),
        *stages,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, num_classes),
    )
