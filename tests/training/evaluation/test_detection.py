"""Our use of pycocotools, against its use on a COCO data set that the tests write down on their own."""

import contextlib
import io
import math
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from training.evaluation.detection import DetectionEvaluation, average_precision


def coco_average_precision(detections: list[Tensor], boxes: list[Tensor], iou: float, num_classes: int) -> float:
    def to_annotations(images: list[Tensor]) -> list[dict[str, Any]]:
        return [
            {
                "image_id": image_id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "category_id": int(rest[-1]),
                "iscrowd": 0,
                "id": 1_000 * image_id + number + 1,
                "score": rest[0],
            }
            for image_id, rows in enumerate(images)
            for number, (x1, y1, x2, y2, *rest) in enumerate(rows.double().tolist())
            if rest[-1] >= 0
        ]

    ground_truth = COCO()
    ground_truth.dataset = {
        "info": {},
        "images": [{"id": image_id} for image_id in range(len(boxes))],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": to_annotations(boxes),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
        coco_eval = COCOeval(ground_truth, ground_truth.loadRes(to_annotations(detections)), "bbox")
        coco_eval.params.iouThrs = [iou]
        coco_eval.evaluate()
        coco_eval.accumulate()
    precision = coco_eval.eval["precision"][0, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def random_images(seed: int, *, rounded: bool, num_classes: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """Detections that are mostly near a box, and boxes; rounding makes equal IoUs and equal scores common."""
    g = torch.Generator().manual_seed(seed)
    detections, boxes = [], []
    for _ in range(12):
        m = int(torch.randint(0, 6, (1,), generator=g))
        top_left = torch.rand(m, 2, generator=g) * 60
        bottom_right = top_left + 5 + torch.rand(m, 2, generator=g) * 30
        label = torch.randint(-1, num_classes, (m, 1), generator=g).float()
        near = torch.cat([top_left, bottom_right], 1).repeat(3, 1)
        near = near + torch.randn(near.shape, generator=g) * 2.5
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        score = torch.rand(len(near), 1, generator=g)
        is_label_right = torch.rand(len(near), 1, generator=g) < 0.8
        predicted_label = torch.where(is_label_right, label.repeat(3, 1).clamp(min=0), 1.0)
        box = torch.cat([top_left, bottom_right], 1)
        if rounded:
            box, near, score = (box / 4).round() * 4, (near / 4).round() * 4, (score * 4).round() / 4
            near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 4)
        boxes.append(torch.cat([box, label], 1))
        detections.append(torch.cat([near, score, predicted_label], 1))
    return detections, boxes


# Detections x1, y1, x2, y2, score, label and boxes x1, y1, x2, y2, label of each image, and the average precision.
CASES: dict[str, tuple[list[list[list[float]]], list[list[list[float]]], float]] = {
    "every box is detected": ([[[0, 0, 10, 10, 0.9, 0]]], [[[0, 0, 10, 10, 0]]], 1.0),
    "no box is detected": ([[[50, 50, 60, 60, 0.9, 0]]], [[[0, 0, 10, 10, 0]]], 0.0),
    "detected as another class": ([[[0, 0, 10, 10, 0.9, 1]]], [[[0, 0, 10, 10, 0]]], 0.0),
    # One of two boxes: precision 1 at 51 of the 101 recalls.
    "a box detected twice is a false positive": (
        [[[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.8, 0]]],
        [[[0, 0, 10, 10, 0], [20, 20, 30, 30, 0]]],
        51 / 101,
    ),
    "an IoU of exactly one half matches": ([[[0, 0, 10, 5, 0.9, 0]]], [[[0, 0, 10, 10, 0]]], 1.0),
    "of two boxes with equal IoU the last is matched": (
        [[[0, 0, 10, 10, 0.9, 0], [2, 0, 12, 10, 0.8, 0]]],
        [[[2, 0, 12, 10, 0], [-2, 0, 8, 10, 0]]],
        1.0,
    ),
    # The false positive comes first: precision 1/2 at 51 of the 101 recalls.
    "a false positive in another image has a higher score": (
        [[[0, 0, 10, 10, 0.5, 0]], [[0, 0, 10, 10, 0.9, 0]]],
        [[[0, 0, 10, 10, 0]], [[40, 40, 50, 50, 0]]],
        51 / 202,
    ),
    "padding is no box": ([[[0, 0, 10, 10, 0.9, 0]]], [[[0, 0, 10, 10, 0], [0, 0, 0, 0, -1]]], 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_worked_cases_score_as_by_hand_and_in_pycocotools(case: str) -> None:
    detections, boxes = ([torch.tensor(rows) for rows in images] for images in CASES[case][:2])

    ours = average_precision(detections, boxes, num_classes=2)

    assert ours == pytest.approx(CASES[case][2], abs=1e-9)
    assert ours == pytest.approx(coco_average_precision(detections, boxes, 0.5, 2), abs=1e-9)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("iou", [0.5, 0.75])
@pytest.mark.parametrize("seed", range(5))
def test_random_cases_score_as_in_pycocotools(seed: int, iou: float, rounded: bool) -> None:
    detections, boxes = random_images(seed, rounded=rounded)

    ours = average_precision(detections, boxes, num_classes=3, iou=iou)

    assert 0.05 < ours < 0.95
    assert ours == pytest.approx(coco_average_precision(detections, boxes, iou, 3), abs=1e-9)


def test_more_than_100_detections_of_an_image_count_no_more_than_in_pycocotools() -> None:
    wrong = torch.tensor([[50.0, 50, 60, 60, 0.9, 0]]).repeat(100, 1)
    right = torch.tensor([[0.0, 0, 10, 10, 0.5, 0]])
    detections, boxes = [torch.cat([wrong, right])], [torch.tensor([[0.0, 0, 10, 10, 0]])]

    assert average_precision(detections, boxes, num_classes=1) == coco_average_precision(detections, boxes, 0.5, 1) == 0


def test_a_class_without_boxes_does_not_count() -> None:
    detections = [torch.tensor([[0.0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.9, 1]])]
    boxes = [torch.tensor([[0.0, 0, 10, 10, 0]])]

    # pycocotools adds 2e-16 to the denominator of precision.
    assert average_precision(detections, boxes, num_classes=2) == pytest.approx(1.0, abs=1e-9)
    assert math.isnan(average_precision(detections, [torch.empty(0, 5)], num_classes=2))


def test_boxes_that_share_a_third_of_their_union_match_up_to_an_iou_of_one_third() -> None:
    detections = [torch.tensor([[5.0, 0, 15, 10, 0.9, 0]]), torch.tensor([[10.0, 10, 20, 20, 0.9, 0]])]
    boxes = [torch.tensor([[0.0, 0, 10, 10, 0]])]

    def is_match(detection: Tensor, iou: float) -> bool:
        return average_precision([detection], boxes, num_classes=1, iou=iou) > 0.999

    assert is_match(detections[0], 1 / 3 - 1e-6)
    assert not is_match(detections[0], 1 / 3 + 1e-6)
    assert not is_match(detections[1], 1e-6)


def test_images_without_detections_score_zero() -> None:
    assert average_precision([torch.empty(0, 6)], [torch.tensor([[0.0, 0, 10, 10, 0]])], num_classes=1) == 0.0


@pytest.mark.parametrize("column", range(5))
def test_a_detection_that_is_not_finite_matches_nothing(column: int) -> None:
    detection = torch.tensor([[0.0, 0, 10, 10, 0.9, 0]])
    detection[0, column] = torch.nan

    assert average_precision([detection], [torch.tensor([[0.0, 0, 10, 10, 0]])], num_classes=1) == 0.0


def test_several_ious_score_as_each_alone() -> None:
    detections, boxes = random_images(0, rounded=False)

    both = DetectionEvaluation(detections, boxes, num_classes=3, ious=(0.5, 0.75)).average_precision()

    assert both == [average_precision(detections, boxes, num_classes=3, iou=iou) for iou in (0.5, 0.75)]


def test_a_sample_scores_as_a_data_set_of_its_images() -> None:
    detections, boxes = random_images(0, rounded=True)
    evaluation = DetectionEvaluation(detections, boxes, num_classes=3, ious=[0.5])
    sample = torch.randint(len(boxes), (len(boxes),), generator=torch.Generator().manual_seed(0))

    sampled = evaluation.average_precision(sample)[0]

    assert len(sample.unique()) < len(sample)
    expected = coco_average_precision([detections[i] for i in sample], [boxes[i] for i in sample], 0.5, 3)
    assert sampled == pytest.approx(expected, abs=1e-9)
    # The next call starts from all images again.
    assert evaluation.average_precision()[0] == average_precision(detections, boxes, num_classes=3) != sampled


def test_a_sample_of_another_size_is_refused() -> None:
    detections, boxes = random_images(0, rounded=False)
    evaluation = DetectionEvaluation(detections, boxes, num_classes=3, ious=[0.5])

    with pytest.raises(ValueError, match="a sample of 3 images; draw 12"):
        evaluation.average_precision(torch.arange(3))


def test_detections_and_boxes_of_different_numbers_of_images_are_refused() -> None:
    detections, boxes = random_images(0, rounded=False)

    with pytest.raises(ValueError, match="detections for 11 images, boxes for 12"):
        average_precision(detections[1:], boxes, num_classes=3)


def test_pycocotools_prints_nothing_for_us_and_still_prints_for_others(capsys: pytest.CaptureFixture[str]) -> None:
    detections, boxes = random_images(0, rounded=False)

    average_precision(detections, boxes, num_classes=3)
    printed_for_us = capsys.readouterr().out
    COCO().createIndex()

    assert printed_for_us == ""
    assert "index created" in capsys.readouterr().out
