"""Convolutional net in VGG's form (Simonyan, Zisserman, 2015) with batch normalisation (Ioffe, Szegedy, 2015)."""

from torch import nn


def cnn(channels: int, classes: int, dropout: float = 0.3) -> nn.Sequential:
    """Build a net of five convolutions for small pictures.

    Input float32 (B, channels, 28, 28), output logits (B, classes); 75,706 parameters for grey digits.
    """
    return nn.Sequential(
        *_block(channels, 16, kernel=5),
        nn.MaxPool2d(2),  # 28 -> 14
        *_block(16, 32),
        *_block(32, 32),
        nn.MaxPool2d(2),  # 14 -> 7
        *_block(32, 64),
        *_block(64, 64),
        nn.MaxPool2d(2),  # 7 -> 3
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64 * 3 * 3, classes),
    )


def _block(wide: int, narrow: int, kernel: int = 3) -> tuple[nn.Module, ...]:
    # The normalisation has a bias of its own.
    return nn.Conv2d(wide, narrow, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()
