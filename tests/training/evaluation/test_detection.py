"""Our average precision against pycocotools', which COCO's own leaderboard is computed with."""

import contextlib
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from training.evaluation.detection import average_precision, box_iou


def coco(detections: list[Tensor], boxes: list[Tensor], iou: float, classes: int) -> float:
    pycocotools_coco = pytest.importorskip("pycocotools.coco")
    pycocotools_eval = pytest.importorskip("pycocotools.cocoeval")

    def rows(pictures: list[Tensor]) -> list[dict[str, Any]]:
        return [
            {
                "image_id": picture,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "category_id": int(rest[-1]),
                "iscrowd": 0,
                "id": 1_000 * picture + number + 1,
                "score": rest[0],
            }
            for picture, of_picture in enumerate(pictures)
            for number, (x1, y1, x2, y2, *rest) in enumerate(of_picture.double().tolist())
            if rest[-1] >= 0
        ]

    truth = pycocotools_coco.COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": picture} for picture in range(len(boxes))],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": rows(boxes),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = pycocotools_eval.COCOeval(truth, truth.loadRes(rows(detections)), "bbox")
        judge.params.iouThrs = [iou]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][0, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def random_pictures(seed: int, *, whole: bool, classes: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes, and detections that are mostly near them; `whole` numbers make equal IoUs and equal scores common."""
    g = torch.Generator().manual_seed(seed)
    detections, boxes = [], []
    for _ in range(12):
        m = int(torch.randint(0, 6, (1,), generator=g))
        low = torch.rand(m, 2, generator=g) * 60
        high = low + 5 + torch.rand(m, 2, generator=g) * 30
        label = torch.randint(-1, classes, (m, 1), generator=g).float()
        near = torch.cat([low, high], 1).repeat(3, 1)
        near = near + torch.randn(near.shape, generator=g) * 2.5
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        scores = torch.rand(len(near), 1, generator=g)
        said = torch.where(torch.rand(len(near), 1, generator=g) < 0.8, label.repeat(3, 1).clamp(min=0), 1.0)
        box, found = torch.cat([low, high], 1), torch.cat([near, scores], 1)
        if whole:
            box, near, scores = (box / 4).round() * 4, (near / 4).round() * 4, (scores * 4).round() / 4
            near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 4)
            found = torch.cat([near, scores], 1)
        boxes.append(torch.cat([box, label], 1))
        detections.append(torch.cat([found, said], 1))
    return detections, boxes


def box(x1: float, y1: float, x2: float, y2: float, *rest: float) -> list[float]:
    return [x1, y1, x2, y2, *rest]


HAND_MADE = {
    "all found": ([[box(0, 0, 10, 10, 0.9, 0)]], [[box(0, 0, 10, 10, 0)]]),
    "none found": ([[box(50, 50, 60, 60, 0.9, 0)]], [[box(0, 0, 10, 10, 0)]]),
    "found as another class": ([[box(0, 0, 10, 10, 0.9, 1)]], [[box(0, 0, 10, 10, 0)]]),
    "found twice, the second is wrong": (
        [[box(0, 0, 10, 10, 0.9, 0), box(0, 0, 10, 10, 0.8, 0)]],
        [[box(0, 0, 10, 10, 0), box(20, 20, 30, 30, 0)]],
    ),
    "exactly one half": ([[box(0, 0, 10, 5, 0.9, 0)]], [[box(0, 0, 10, 10, 0)]]),
    "two boxes equally near": (
        [[box(0, 0, 10, 10, 0.9, 0), box(2, 0, 12, 10, 0.8, 0)]],
        [[box(2, 0, 12, 10, 0), box(-2, 0, 8, 10, 0)]],
    ),
    "a wrong picture is surer": (
        [[box(0, 0, 10, 10, 0.5, 0)], [box(0, 0, 10, 10, 0.9, 0)]],
        [[box(0, 0, 10, 10, 0)], [box(40, 40, 50, 50, 0)]],
    ),
    "padding stands for nothing": ([[box(0, 0, 10, 10, 0.9, 0)]], [[box(0, 0, 10, 10, 0), box(0, 0, 0, 0, -1)]]),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_hand_made_cases_score_as_in_pycocotools(case: str) -> None:
    detections, boxes = ([torch.tensor(rows) for rows in part] for part in HAND_MADE[case])

    ours = average_precision(detections, boxes, classes=2)

    assert ours == pytest.approx(coco(detections, boxes, 0.5, 2), abs=1e-9)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("iou", [0.5, 0.75])
@pytest.mark.parametrize("seed", range(5))
def test_random_cases_score_as_in_pycocotools(seed: int, iou: float, whole: bool) -> None:
    detections, boxes = random_pictures(seed, whole=whole)

    ours = average_precision(detections, boxes, classes=3, iou=iou)

    assert 0.05 < ours < 0.95
    assert ours == pytest.approx(coco(detections, boxes, iou, 3), abs=1e-9)


def test_more_than_100_detections_of_a_picture_count_no_more_than_in_pycocotools() -> None:
    wrong = torch.tensor([box(50, 50, 60, 60, 0.9, 0)]).repeat(100, 1)
    right = torch.tensor([box(0, 0, 10, 10, 0.5, 0)])
    detections, boxes = [torch.cat([wrong, right])], [torch.tensor([box(0, 0, 10, 10, 0)])]

    assert average_precision(detections, boxes, classes=1) == coco(detections, boxes, 0.5, 1) == 0.0


def test_a_class_without_boxes_does_not_count() -> None:
    detections = [torch.tensor([box(0, 0, 10, 10, 0.9, 0), box(0, 0, 10, 10, 0.9, 1)])]
    boxes = [torch.tensor([box(0, 0, 10, 10, 0)])]

    assert average_precision(detections, boxes, classes=2) == 1.0
    assert math.isnan(average_precision(detections, [torch.empty(0, 5)], classes=2))


def test_iou_of_boxes_that_share_a_third_of_what_they_cover() -> None:
    iou_12 = box_iou(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10], [10.0, 10, 20, 20]]))

    assert torch.allclose(iou_12, torch.tensor([[1 / 3, 0.0]]))
