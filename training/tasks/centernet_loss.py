"""Loss and decoding of CenterNet ("Objects as Points", Zhou et al., 2019): heatmap peaks as object centers."""
# Shapes: B images, C classes, H x W cells of the maps, M true boxes of an image, P detections of an image. The C + 4
# channels of the maps are a heatmap for each class, then width, height and the center's offset in its cell (x, y).

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, logsigmoid, max_pool2d, one_hot

STRIDE = 4  # image pixels per map cell, along each axis


def decode_peaks(maps: Tensor, num_classes: int, max_detections: int) -> Tensor:
    """Decode maps (B, C + 4, H, W) into boxes (B, P, 6): x1, y1, x2, y2 in pixels, score, class; best first.

    Only a cell that is the maximum of its 3x3 neighborhood is a peak, which replaces non-maximum suppression.
    """
    height, width = maps.shape[2:]
    heatmap = maps[:, :num_classes].sigmoid()
    heatmap = torch.where(max_pool2d(heatmap, 3, stride=1, padding=1) == heatmap, heatmap, 0.0)
    score_BP, index_BP = heatmap.flatten(1).topk(max_detections)
    class_BP, cell_BP = index_BP // (height * width), index_BP % (height * width)
    size_BP2, center_BP2 = _gather_boxes(maps[:, num_classes:], cell_BP)
    half_size_BP2 = size_BP2.clamp(min=0) / 2
    corners_BP4 = torch.cat([center_BP2 - half_size_BP2, center_BP2 + half_size_BP2], dim=2) * STRIDE
    return torch.cat([corners_BP4, torch.stack([score_BP, class_BP.to(maps.dtype)], dim=2)], dim=2)


def detection_loss(maps: Tensor, boxes_BM5: Tensor, size_weight: float = 0.4) -> Tensor:
    """Penalty-reduced focal loss of the heatmaps plus L1 loss of sizes and offsets, per object.

    Args:
        maps: (B, C + 4, H, W), heatmaps as logits.
        boxes_BM5: x1, y1, x2, y2 in pixels, class; rows of class -1 are padding.
        size_weight: weight of the size loss; the paper's 0.1 is for sizes in pixels, here they are in cells of 4.
    """
    maps, num_classes = maps.float(), maps.shape[1] - 4
    height, width = maps.shape[2:]
    mask_BM = boxes_BM5[..., 4] >= 0
    top_left, bottom_right = boxes_BM5[..., :2] / STRIDE, boxes_BM5[..., 2:4] / STRIDE
    center_BM2, size_BM2 = (top_left + bottom_right) / 2, bottom_right - top_left
    cell_BM2 = center_BM2.floor()
    num_objects = mask_BM.sum().clamp(min=1)

    target = _target_heatmap(cell_BM2, size_BM2, boxes_BM5[..., 4].long(), (num_classes, height, width))
    logits = maps[:, :num_classes]
    p = logits.sigmoid()
    positive = (1 - p).square() * logsigmoid(logits) * (target == 1)
    negative = (1 - target).pow(4) * p.square() * logsigmoid(-logits)
    focal_loss = -(positive + negative).sum() / num_objects

    index_BM = (cell_BM2[..., 1] * width + cell_BM2[..., 0]).long().clamp(0, height * width - 1)
    predicted_size, predicted_center = _gather_boxes(maps[:, num_classes:], index_BM)
    size_loss = l1_loss(predicted_size[mask_BM], size_BM2[mask_BM], reduction="sum") / num_objects
    offset_loss = l1_loss(predicted_center[mask_BM], center_BM2[mask_BM], reduction="sum") / num_objects
    return focal_loss + size_weight * size_loss + offset_loss


def _gather_boxes(maps_B4HW: Tensor, cell_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Read sizes (B, P, 2) and centers (B, P, 2), both in cells, at cells numbered row by row."""
    width = maps_B4HW.shape[3]
    values_BP4 = maps_B4HW.flatten(2).transpose(1, 2).gather(1, cell_BP[..., None].expand(-1, -1, 4))
    corner_BP2 = torch.stack([cell_BP % width, cell_BP // width], dim=2)
    return values_BP4[..., :2], corner_BP2 + values_BP4[..., 2:]


def _target_heatmap(cell_BM2: Tensor, size_BM2: Tensor, class_BM: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Build target heatmaps (B, C, H, W): 1 in each object's cell, a Gaussian around it, std = size / 6."""
    num_classes, height, width = shape
    std_BM2 = (size_BM2 / 6).clamp(min=0.1)

    def gaussian(axis: int, cells: int) -> Tensor:
        """Unnormalized density along one axis, (B, M, cells)."""
        distance = torch.arange(cells, device=cell_BM2.device) - cell_BM2[..., axis, None]
        return (-0.5 * (distance / std_BM2[..., axis, None]).square()).exp()

    heatmap_BMHW = gaussian(1, height)[..., :, None] * gaussian(0, width)[..., None, :]
    # Padding has class -1: shifted by one it gets a one-hot column of its own, which is dropped.
    is_class_BMC = one_hot(class_BM + 1, num_classes + 1)[..., 1:]
    return (is_class_BMC[..., None, None] * heatmap_BMHW[:, :, None]).amax(1)
