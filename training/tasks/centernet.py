"""CenterNet ("Objects as Points", Zhou, Wang, Krähenbühl, 2019): objects are peaks of heat maps; their loss and decoding."""
# Shapes: B rows, C classes, H x W cells of the maps, M boxes, P peaks.

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, logsigmoid, max_pool2d, one_hot

STRIDE = 4  # pixels of the picture to one cell of the maps, along each axis


def decode_peaks(raw: Tensor, classes: int, peaks: int) -> Tensor:
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
