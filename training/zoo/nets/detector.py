"""One-stage detector CenterNet ("Objects as Points", Zhou, Wang, Krähenbühl, 2019): objects are peaks of heatmaps."""
# Shapes: B rows, K image channels, C classes, H x W cells of the heatmaps (image / 4), P detections.

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from training.tasks.centernet_loss import decode_peaks


class Detector(nn.Module):
    """Convolutions down to 1/16 of the image and up again to 1/4, with lateral connections at 1/8 and 1/4.

    Input float32 (B, K, H, W), H and W multiples of 16. Each cell of the output maps has, per class, the logit that an
    object's center lies in it, then that object's width, height and center offset, all in cells.

    Args:
        in_channels: K.
        num_classes: C.
        base_channels: channels of the stem; the deepest stage has four times as many.
        max_detections: P, the boxes returned for each image, best first.
    """

    def __init__(self, in_channels: int, num_classes: int, base_channels: int = 16, max_detections: int = 20) -> None:
        super().__init__()
        self.num_classes, self.max_detections = num_classes, max_detections
        c2, c4, c8, c16 = base_channels, 2 * base_channels, 4 * base_channels, 4 * base_channels
        self.stem = _conv_bn_relu(in_channels, c2, stride=2)  # to 1/2
        self.down4 = nn.Sequential(_conv_bn_relu(c2, c4, stride=2), _conv_bn_relu(c4, c4))
        self.down8 = nn.Sequential(_conv_bn_relu(c4, c8, stride=2), _conv_bn_relu(c8, c8))
        self.down16 = nn.Sequential(_conv_bn_relu(c8, c16, stride=2), _conv_bn_relu(c16, c16))
        self.lateral4, self.lateral8 = _conv_bn_relu(c4, c8, kernel_size=1), _conv_bn_relu(c8, c16, kernel_size=1)
        self.up8, self.up4 = _conv_bn_relu(c16, c8), _conv_bn_relu(c8, c8)
        self.head = nn.Conv2d(c8, num_classes + 4, 1)
        # Nearly every cell is background: start at a probability of 0.1, as the paper does.
        nn.init.constant_(self.head.bias[:num_classes], -2.19)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        """In training the raw maps (B, C + 4, H / 4, W / 4); in evaluation boxes (B, P, 6), see `decode_peaks`."""
        # channels_last makes the convolutions a fifth faster on CPUs.
        x4 = self.down4(self.stem(x).contiguous(memory_format=torch.channels_last))
        x8 = self.down8(x4)
        y8 = self.up8(self.lateral8(x8) + interpolate(self.down16(x8), scale_factor=2))
        maps: Tensor = self.head(self.up4(self.lateral4(x4) + interpolate(y8, scale_factor=2)))
        return maps if self.training else decode_peaks(maps, self.num_classes, self.max_detections)


def _conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    # No bias in the convolution: batch normalization has its own.
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())
