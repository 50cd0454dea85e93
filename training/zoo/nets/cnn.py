"""VGG-style convolutional net (Simonyan, Zisserman, 2015) with batch normalization (Ioffe, Szegedy, 2015)."""

from torch import nn


def cnn(in_channels: int, num_classes: int, dropout: float = 0.3) -> nn.Sequential:
    """Build a net of five convolutions for small images.

    Input float32 (B, in_channels, 28, 28), output logits (B, num_classes); 75,706 parameters for grayscale digits.
    """
    return nn.Sequential(
        *_conv_bn_relu(in_channels, 16, kernel_size=5),
        nn.MaxPool2d(2),  # 28 -> 14
        *_conv_bn_relu(16, 32),
        *_conv_bn_relu(32, 32),
        nn.MaxPool2d(2),  # 14 -> 7
        *_conv_bn_relu(32, 64),
        *_conv_bn_relu(64, 64),
        nn.MaxPool2d(2),  # 7 -> 3
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64 * 3 * 3, num_classes),
    )


def _conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int = 3) -> tuple[nn.Module, ...]:
    # No bias in the convolution: batch normalization has its own.
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU()
