"""Scores that torchmetrics does not give on its own: detection in COCO's terms (Lin et al., 2014)."""
# Shapes: N boxes, M other boxes, K detections of a picture.

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_PER_PICTURE = 100
RECALLS = np.linspace(0.0, 1.0, 101)


def box_iou(one_N4: Tensor, other_M4: Tensor) -> Tensor:
    """Intersection over union of each box with each other one, (N, M); boxes are x1, y1, x2, y2."""
    low = torch.maximum(one_N4[:, None, :2], other_M4[None, :, :2])
    high = torch.minimum(one_N4[:, None, 2:4], other_M4[None, :, 2:4])
    shared_NM = (high - low).clamp(min=0).prod(2)
    return shared_NM / (_area(one_N4)[:, None] + _area(other_M4)[None] - shared_NM)


def average_precision(detections: list[Tensor], boxes: list[Tensor], *, classes: int, iou: float = 0.5) -> float:
    """COCO's mean average precision at one IoU; see `hits` and `mean_average_precision`.

    Args:
        detections: per picture (K, 6): x1, y1, x2, y2, score, class.
        boxes: per picture (M, 5): x1, y1, x2, y2, class; rows of another class than 0 .. classes - 1 are left out.
        classes: how many there are.
        iou: least intersection over union.

    Returns:
        0 to 1; nan where there is no box at all.
    """
    found = [match_detections(said_K6, true_M5, iou) for said_K6, true_M5 in zip(detections, boxes, strict=True)]
    said, true = torch.cat(detections), torch.cat(boxes)
    return mean_average_precision(said[:, 4], said[:, 5], torch.cat(found), true[:, 4], classes=classes)


def match_detections(said_K6: Tensor, true_M5: Tensor, iou: float) -> Tensor:
    """Which detections of one picture find a box; bool (K,).

    A detection finds the free box of its class that it covers best, if by `iou` at least; the surest chooses first.
    """
    found_K = torch.zeros(len(said_K6), dtype=torch.bool)
    for label in said_K6[:, 5].unique():
        mine = (said_K6[:, 5] == label).nonzero().flatten()
        mine = mine[said_K6[mine, 4].argsort(descending=True, stable=True)][:MOST_PER_PICTURE]
        wanted_M4 = true_M5[true_M5[:, 4] == label, :4].double()
        found_K[mine] = _match_boxes(box_iou(said_K6[mine, :4].double(), wanted_M4), iou)
    return found_K


def mean_average_precision(
    scores: Tensor, labels: Tensor, found: Tensor, true_labels: Tensor, *, classes: int
) -> float:
    """Average precision, interpolated at 101 recalls; mean over the classes that have boxes.

    Args:
        scores: of all detections of all pictures, any shape.
        labels: their classes, same shape.
        found: whether each found a box, same shape.
        true_labels: classes of all boxes; those that are not 0 .. classes - 1 are left out.
        classes: how many there are.

    Returns:
        0 to 1; nan where there is no box at all.
    """
    precisions = []
    for label in range(classes):
        total = int((true_labels == label).sum())
        if total:
            mine = labels == label
            order = scores[mine].argsort(descending=True, stable=True)
            precisions.append(_interpolate_precision(found[mine][order].numpy(), total))
    return float(np.mean(precisions)) if precisions else float("nan")


def _area(boxes_N4: Tensor) -> Tensor:
    return (boxes_N4[:, 2:4] - boxes_N4[:, :2]).prod(1)


def _match_boxes(iou_KM: Tensor, least: float) -> Tensor:
    """Which detections, best first, find a box that none before them took; bool (K,)."""
    free_M = torch.ones(iou_KM.shape[1], dtype=torch.bool)
    found_K = torch.zeros(len(iou_KM), dtype=torch.bool)
    for k, iou_M in enumerate(iou_KM):
        fit_M = torch.where(free_M & (iou_M >= least), iou_M, -1.0)
        if len(fit_M) and fit_M.max() >= 0:
            # Of equals COCO takes the last.
            free_M[len(fit_M) - 1 - int(fit_M.flip(0).argmax())] = False
            found_K[k] = True
    return found_K


def _interpolate_precision(found: NDArray[np.bool_], total: int) -> float:
    """Mean, over 101 recalls, of the best precision at that recall or more; 0 where the recall is never reached."""
    hits = found.cumsum()
    recall, precision = hits / total, hits / np.arange(1, len(found) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(best_from_here, 0.0)[np.minimum(at, len(found))].mean())
