"""Object detection: boxes with labels in a picture."""
# Shapes: B pictures of a batch, P boxes that the net gives, M boxes of the truth; facts are score, label and hit of
# each of P, then the label of each of M (-1: none).

import torch
from torch import Tensor, nn

from training.data.preprocessing import EncodedRows
from training.evaluation.detection import match_detections, mean_average_precision
from training.schema import BoxOutput
from training.tasks.base import Outputs, Task
from training.tasks.centernet import detection_loss

LOOSE, TIGHT = 0.5, 0.75


class ObjectDetection(Task):
    """CenterNet's loss; judged by COCO's mean average precision where half of a box must be met."""

    metric = "map50"
    outputs = ("boxes",)

    def default_loss(self, output: Outputs, batch: EncodedRows) -> Tensor:
        """Focal loss of the heat maps and L1 of the boxes."""
        assert isinstance(output, Tensor)
        return detection_loss(output, batch.targets)

    def eval_outputs(self, net: nn.Module, output: Outputs, batch: EncodedRows) -> Tensor:
        """Score, label, and hits at 0.5 and 0.75 of each box, then the labels of the truth."""
        assert isinstance(output, Tensor)
        said_BP6, truth_BM5 = output.float().cpu(), batch.targets.cpu()
        found_B2P = torch.stack(
            [
                torch.stack([match_detections(said_P6, truth_M5, iou) for iou in (LOOSE, TIGHT)])
                for said_P6, truth_M5 in zip(said_BP6, truth_BM5, strict=True)
            ]
        )
        return torch.cat([said_BP6[..., 4], said_BP6[..., 5], found_B2P.flatten(1).float(), truth_BM5[..., 4]], 1)

    def validation_metrics(self, facts_NK: Tensor) -> dict[str, float]:
        """Mean average precision where a half, and where three quarters of a box must be met."""
        return {"map50": self._map(facts_NK, 2), "map75": self._map(facts_NK, 3)}

    def _map(self, facts_NK: Tensor, part: int) -> float:
        peaks = int(str(self.recipe.net.args.get("peaks", 20)))
        parts = facts_NK.split([peaks] * 4 + [facts_NK.shape[1] - 4 * peaks], 1)
        return mean_average_precision(parts[0], parts[1], parts[part].bool(), parts[4], classes=len(self.labels))

    def output_schema(self) -> BoxOutput:
        """Labels."""
        return BoxOutput(labels=self.labels)
