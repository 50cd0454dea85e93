"""Object detection's average precision as COCO defines it (Lin et al., 2014), computed by pycocotools.

torchmetrics' MeanAveragePrecision, which calls pycocotools too, cannot be imported without torchvision. Knows nothing
of nets or tasks.
"""
# Shapes: N images, P detections of an image, M true boxes of an image.

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pycocotools import coco, cocoeval
from torch import Tensor

MAX_DETECTIONS = 100


class DetectionEvaluation:
    """Detections matched with the true boxes of their images; average precision over all images or a bootstrap sample.

    Matching is the expensive part and is done once: for 1,000 images with 20 detections each, of 10 classes, it takes
    0.6 s of one core, and the average precision of each sample 0.03 s.
    """

    def __init__(
        self, detections: Iterable[Tensor], boxes: Iterable[Tensor], *, num_classes: int, ious: Sequence[float]
    ) -> None:
        """Match the detections of each image with its boxes.

        Args:
            detections: per image (P, 6): x1, y1, x2, y2, score, class; of each class the best 100 count.
            boxes: per image (M, 5): x1, y1, x2, y2, class; rows of class -1 are padding.
            num_classes: classes are 0 to num_classes - 1; others are ignored.
            ious: thresholds of intersection over union from which on a detection matches a box.

        Raises:
            ValueError: detections and boxes are of different numbers of images.
        """
        # A net that diverges predicts NaN, which COCOeval would match with any box.
        predicted = [image[image.isfinite().all(1)] for image in detections]
        true = [image[image[:, 4] >= 0] for image in boxes]
        if len(predicted) != len(true):
            raise ValueError(f"detections for {len(predicted)} images, boxes for {len(true)}; pass both for each image")
        self._num_images = len(true)
        self._coco_eval = cocoeval.COCOeval(_to_coco(true, num_classes), _to_coco(predicted, num_classes), "bbox")
        params = self._coco_eval.params
        params.iouThrs, params.maxDets, params.areaRng = list(ious), [MAX_DETECTIONS], params.areaRng[:1]
        with _silence_print():
            self._coco_eval.evaluate()
        self._matches: list[Any] = self._coco_eval.evalImgs

    def average_precision(self, images: Tensor | None = None) -> list[float]:
        """Mean average precision over the classes that have boxes, for each IoU threshold; nan where there is no box.

        Args:
            images: indices of a bootstrap sample, int64 (N,), with repeats; None for all images.

        Raises:
            ValueError: the sample is not of N images.
        """
        self._coco_eval.evalImgs = self._matches if images is None else self._sample_matches(images.tolist())
        with _silence_print():
            self._coco_eval.accumulate()
        # (IoU, recall, class, area, max detections); -1 where a class has no boxes.
        precision = torch.from_numpy(self._coco_eval.eval["precision"])[..., 0, 0]
        return [at_iou[:, at_iou[0] > -1].mean().item() for at_iou in precision]

    def _sample_matches(self, images: list[int]) -> list[Any]:
        """Matches of sampled images in COCOeval's order: all images of the first class, then of the next."""
        if len(images) != self._num_images:
            raise ValueError(f"a sample of {len(images)} images; draw {self._num_images}, as many as were matched")
        return [
            self._matches[start + image] for start in range(0, len(self._matches), self._num_images) for image in images
        ]


def average_precision(
    detections: Iterable[Tensor], boxes: Iterable[Tensor], *, num_classes: int, iou: float = 0.5
) -> float:
    """Mean average precision at one IoU; see `DetectionEvaluation`."""
    evaluation = DetectionEvaluation(detections, boxes, num_classes=num_classes, ious=[iou])
    return evaluation.average_precision()[0]


def _to_coco(images: Sequence[Tensor], num_classes: int) -> coco.COCO:
    """Build COCO's index of boxes (M, 5) or of detections (P, 6), as `DetectionEvaluation` takes them."""
    annotations = [
        {
            "id": number,
            "image_id": index,
            "category_id": int(rest[-1]),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "score": rest[0],
            "iscrowd": 0,
        }
        # Ids start at 1: COCOeval records the id of a match, and 0 where there is none.
        for number, (index, (x1, y1, x2, y2, *rest)) in enumerate(
            ((index, row) for index, image in enumerate(images) for row in image.tolist()), start=1
        )
    ]
    dataset = coco.COCO()
    dataset.dataset = {
        "images": [{"id": index} for index in range(len(images))],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": annotations,
    }
    with _silence_print():
        dataset.createIndex()
    return dataset


@contextmanager
def _silence_print() -> Iterator[None]:
    """Shadow `print` in pycocotools, which prints its progress at every call, so twice for each bootstrap sample.

    contextlib.redirect_stdout is not enough: Ray Train replaces `print` by a function that also logs.
    """
    modules = (coco, cocoeval)
    for module in modules:
        module.print = lambda *values: None
    try:
        yield
    finally:
        for module in modules:
            del module.print
