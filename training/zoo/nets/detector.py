"""One-stage detector CenterNet ("Objects as Points", Zhou, Wang, Krähenbühl, 2019): objects are peaks of heat maps."""
# Shapes: B rows, C classes, K channels of the picture, H x W cells of the maps, M boxes, P peaks.

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from training.tasks.centernet import decode_peaks


class Detector(nn.Module):
    """Convolutions down to 1/16 of the picture and up again to 1/4, each step up adding what was seen there before.

    Input float32 (B, K, 16 h, 16 w). Each cell of the maps says, per class, how surely an object's centre lies in it
    (a logit), and of such an object its width and height and its centre's offset in the cell, all in cells.
    """

    def __init__(self, channels: int, classes: int, width: int = 16, peaks: int = 20) -> None:
        super().__init__()
        self.classes, self.peaks = classes, peaks
        wide = [width, 2 * width, 4 * width, 4 * width]
        self.stem = _block(channels, wide[0], stride=2)  # to 1/2
        self.down4 = nn.Sequential(_block(wide[0], wide[1], stride=2), _block(wide[1], wide[1]))
        self.down8 = nn.Sequential(_block(wide[1], wide[2], stride=2), _block(wide[2], wide[2]))
        self.down16 = nn.Sequential(_block(wide[2], wide[3], stride=2), _block(wide[3], wide[3]))
        self.across4, self.across8 = _block(wide[1], wide[2], kernel=1), _block(wide[2], wide[3], kernel=1)
        self.up8, self.up4 = _block(wide[3], wide[2]), _block(wide[2], wide[2])
        self.head = nn.Conv2d(wide[2], classes + 4, 1)
        # Nearly every cell is empty: begin by saying so (a probability of 0.1), as the paper does.
        nn.init.constant_(self.head.bias[:classes], -2.19)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        """In training the raw maps (B, C + 4, H, W); else the best peaks as boxes, see `training.tasks.centernet.decode_peaks`."""
        # A pixel's channels side by side in memory: convolutions are a fifth faster on CPUs.
        x4 = self.down4(self.stem(x).contiguous(memory_format=torch.channels_last))
        x8 = self.down8(x4)
        y8 = self.up8(self.across8(x8) + interpolate(self.down16(x8), scale_factor=2))
        raw: Tensor = self.head(self.up4(self.across4(x4) + interpolate(y8, scale_factor=2)))
        return raw if self.training else decode_peaks(raw, self.classes, self.peaks)


def _block(wide: int, narrow: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    # The normalisation has a bias of its own.
    return nn.Sequential(
        nn.Conv2d(wide, narrow, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()
    )
