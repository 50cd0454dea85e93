"""One-stage detector CenterNet ("Objects as Points", Zhou, Wang, Krähenbühl, 2019): objects are peaks of heat maps."""
# Shapes: B rows, C classes, K channels of the picture, H x W cells of the maps, M boxes, P peaks.

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss, logsigmoid, max_pool2d, one_hot

STRIDE = 4  # pixels of the picture to one cell of the maps, along each axis


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
        """In training the raw maps (B, C + 4, H, W); else the best peaks as boxes, see `decode`."""
        # A pixel's channels side by side in memory: convolutions are a fifth faster on CPUs.
        x4 = self.down4(self.stem(x).contiguous(memory_format=torch.channels_last))
        x8 = self.down8(x4)
        y8 = self.up8(self.across8(x8) + interpolate(self.down16(x8), scale_factor=2))
        raw: Tensor = self.head(self.up4(self.across4(x4) + interpolate(y8, scale_factor=2)))
        return raw if self.training else decode(raw, self.classes, self.peaks)


def decode(raw: Tensor, classes: int, peaks: int) -> Tensor:
    """Turn raw maps (B, C + 4, H, W) into boxes (B, P, 6): x1, y1, x2, y2 in pixels, score, class; best first.

    A cell that is not the highest of its 3x3 neighbours is no peak: this stands in for non-maximum suppression.
    """
    height, width = raw.shape[2:]
    heat = raw[:, :classes].sigmoid()
    heat = torch.where(max_pool2d(heat, 3, stride=1, padding=1) == heat, heat, 0.0)
    score_BP, index_BP = heat.flatten(1).topk(peaks)
    class_BP, cell_BP = index_BP // (height * width), index_BP % (height * width)
    size_BP2, centre_BP2 = _at_cells(raw[:, classes:], cell_BP)
    half_BP2 = size_BP2.clamp(min=0) / 2
    corners = torch.cat([centre_BP2 - half_BP2, centre_BP2 + half_BP2], dim=2) * STRIDE
    return torch.cat([corners, torch.stack([score_BP, class_BP.to(raw.dtype)], dim=2)], dim=2)


def detection_loss(raw: Tensor, boxes: Tensor, size_weight: float = 0.4) -> Tensor:
    """Penalty-reduced focal loss of the heat maps plus L1 of sizes and offsets, per object.

    Args:
        raw: the maps, (B, C + 4, H, W).
        boxes: (B, M, 5): x1, y1, x2, y2 in pixels, class; rows of class -1 stand for nothing.
        size_weight: of the sizes' part; the paper's 0.1 is for pixels, sizes here are in cells of 4.
    """
    raw, classes = raw.float(), raw.shape[1] - 4
    height, width = raw.shape[2:]
    there_BM = boxes[..., 4] >= 0
    low, high = boxes[..., :2] / STRIDE, boxes[..., 2:4] / STRIDE
    centre_BM2, size_BM2 = (low + high) / 2, high - low
    cell_BM2 = centre_BM2.floor()
    objects = there_BM.sum().clamp(min=1)

    heat = _heat(cell_BM2, size_BM2, boxes[..., 4].long(), (classes, height, width))
    logits = raw[:, :classes]
    p = logits.sigmoid()
    found = (1 - p).square() * logsigmoid(logits) * (heat == 1)
    empty = (1 - heat).pow(4) * p.square() * logsigmoid(-logits)
    focal = -(found + empty).sum() / objects

    index_BM = (cell_BM2[..., 1] * width + cell_BM2[..., 0]).long().clamp(0, height * width - 1)
    said_size, said_centre = _at_cells(raw[:, classes:], index_BM)
    size = l1_loss(said_size[there_BM], size_BM2[there_BM], reduction="sum") / objects
    offset = l1_loss(said_centre[there_BM], centre_BM2[there_BM], reduction="sum") / objects
    return focal + size_weight * size + offset


def _at_cells(maps: Tensor, cell_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes (B, P, 2) and centres (B, P, 2), in cells, that maps (B, 4, H, W) say at cells numbered along the rows."""
    width = maps.shape[3]
    said_BP4 = maps.flatten(2).transpose(1, 2).gather(1, cell_BP[..., None].expand(-1, -1, 4))
    corner_BP2 = torch.stack([cell_BP % width, cell_BP // width], dim=2)
    return said_BP4[..., :2], corner_BP2 + said_BP4[..., 2:]


def _heat(cell_BM2: Tensor, size_BM2: Tensor, class_BM: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Build the wanted heat maps (B, C, H, W): 1 in each object's cell, a Gaussian of a sixth of its size around."""
    classes, height, width = shape
    deviation_BM2 = (size_BM2 / 6).clamp(min=0.1)

    def along(axis: int, cells: int) -> Tensor:
        steps = (torch.arange(cells, device=cell_BM2.device) - cell_BM2[..., axis, None]) / deviation_BM2[
            ..., axis, None
        ]
        return (-0.5 * steps.square()).exp()

    heat = along(1, height)[..., :, None] * along(0, width)[..., None, :]
    # A row that stands for nothing has class -1: one class more than there are, dropped again.
    is_class = one_hot(class_BM + 1, classes + 1)[..., 1:]
    return (is_class[..., None, None] * heat[:, :, None]).amax(1)


def _block(wide: int, narrow: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    # The normalisation has a bias of its own.
    return nn.Sequential(
        nn.Conv2d(wide, narrow, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()
    )
