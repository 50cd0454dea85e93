"""Object detection: labeled boxes in an image."""
# Shapes: N images of a split, B images of a batch, P detections of an image, M true boxes of an image, padded; eval
# outputs K = 6P + 5M: the detections, then the true boxes.

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.data.preprocessing import EncodedRows, FittedPreprocessing
from training.errors import UserError
from training.evaluation.detection import DetectionEvaluation
from training.recipe.spec import Recipe
from training.schema import BoxOutput
from training.tasks.base import NetOutput, Task
from training.tasks.centernet_loss import detection_loss


class ObjectDetection(Task):
    """CenterNet's loss; evaluated by COCO's mean average precision at an IoU of 0.5."""

    primary_metric = "map50"
    output_names = ("boxes",)
    # A sample takes 0.03 s with 1,000 images, see DetectionEvaluation.
    bootstrap_samples = 100

    def __init__(self, recipe: Recipe, dataset: Dataset, fitted: FittedPreprocessing) -> None:
        super().__init__(recipe, dataset, fitted)
        targets = dataset.targets
        if not isinstance(targets, Tensor) or targets.ndim != 3 or targets.shape[2] != 5:
            shape = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            raise UserError(
                f"task object-detection takes targets of shape (N, M, 5), x1, y1, x2, y2 and label index of M boxes an "
                f"image, padded with -1; the data set's are {shape}"
            )
        self._max_boxes = targets.shape[1]

    def default_loss(self, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Focal loss of the heatmaps and L1 loss of the boxes."""
        assert isinstance(output, Tensor)
        return detection_loss(output, batch.targets)

    def eval_outputs(self, net: nn.Module, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Detections and true boxes."""
        assert isinstance(output, Tensor)
        return torch.cat([output.float().flatten(1), batch.targets.flatten(1)], 1)

    def validation_metrics(self, eval_outputs_NK: Tensor) -> dict[str, float]:
        """Mean average precision at an IoU of 0.5 and of 0.75."""
        map50, map75 = self._evaluate(eval_outputs_NK, ious=(0.5, 0.75)).average_precision()
        return {"map50": map50, "map75": map75}

    def bootstrap_metric(self, eval_outputs_NK: Tensor) -> Callable[[Tensor], float]:
        """As in Task; boxes are matched once for all samples."""
        evaluation = self._evaluate(eval_outputs_NK, ious=(0.5,))
        return lambda rows: evaluation.average_precision(rows)[0]

    def _evaluate(self, eval_outputs_NK: Tensor, ious: Sequence[float]) -> DetectionEvaluation:
        box_columns = 5 * self._max_boxes
        detections, boxes = eval_outputs_NK.split([eval_outputs_NK.shape[1] - box_columns, box_columns], dim=1)
        return DetectionEvaluation(
            detections.unflatten(1, (-1, 6)), boxes.unflatten(1, (-1, 5)), num_classes=len(self.labels), ious=ious
        )

    def output_schema(self) -> BoxOutput:
        """The box labels."""
        return BoxOutput(labels=self.labels)
