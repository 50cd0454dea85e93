"""Classification: one of C labels for each row, whatever the row is."""
# Shapes: N rows, B rows of a batch, C classes; facts are the target, then C logits.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.preprocessing import EncodedRows
from training.schema import ClassOutput
from training.tasks.base import Outputs, Task


class TwoLogits(nn.Module):
    """Publish a net of one logit as one of two: softmax([0, y]) is [1 - sigmoid(y), sigmoid(y)]."""

    def forward(self, y_B1: Tensor) -> Tensor:
        """Shape (B, 1); the same in training, (B, 2) afterwards."""
        return y_B1 if self.training else torch.cat([torch.zeros_like(y_B1), y_B1], 1)


class Classification(Task):
    """Cross-entropy over C logits; binary cross-entropy where the net gives one logit for two labels."""

    metric = "accuracy"

    @property
    def _binary(self) -> bool:
        return len(self.labels) == 2 and self.recipe.net.args.get("classes") == 1

    def output_layer(self, train: EncodedRows) -> nn.Module | None:
        """Two logits from one."""
        return TwoLogits() if self._binary else None

    def loss(self, output: Outputs, batch: EncodedRows) -> Tensor:
        """As in Task; a binary loss gets targets of the output's shape and type."""
        if self._chosen and self._binary and isinstance(output, Tensor):
            return self._chosen(output, batch.targets[:, None].to(output.dtype), **self._chosen_args)
        return super().loss(output, batch)

    def default_loss(self, output: Outputs, batch: EncodedRows) -> Tensor:
        """Cross-entropy, binary or over all classes."""
        assert isinstance(output, Tensor)
        if self._binary:
            return F.binary_cross_entropy_with_logits(output, batch.targets[:, None].to(output.dtype))
        return F.cross_entropy(output, batch.targets)

    def eval_outputs(self, net: nn.Module, output: Outputs, batch: EncodedRows) -> Tensor:
        """Target and logits."""
        assert isinstance(output, Tensor)
        return torch.cat([batch.targets[:, None].float(), output.float()], 1)

    def validation_metrics(self, facts_NK: Tensor) -> dict[str, float]:
        """Accuracy and cross-entropy."""
        target_N, y_NC = split_targets_logits(facts_NK)
        return {
            "accuracy": (y_NC.argmax(1) == target_N).float().mean().item(),
            "cross_entropy": F.cross_entropy(y_NC, target_N).item(),
        }

    def metrics(self, facts_NK: Tensor) -> dict[str, float]:
        """Adds precision, recall and F1, averaged over the classes, and the area under the ROC curve (one vs rest)."""
        # Brings scipy and matplotlib with it: not before a worker's first step.
        from torchmetrics.functional import classification as metrics

        target_N, y_NC = split_targets_logits(facts_NK)
        classes = len(self.labels)
        averaged = {
            "precision": metrics.multiclass_precision(y_NC, target_N, classes, "macro"),
            "recall": metrics.multiclass_recall(y_NC, target_N, classes, "macro"),
            "f1": metrics.multiclass_f1_score(y_NC, target_N, classes, "macro"),
            "roc_auc": metrics.multiclass_auroc(y_NC.softmax(1), target_N, classes, "macro"),
        }
        return self.validation_metrics(facts_NK) | {name: value.item() for name, value in averaged.items()}

    def per_class_metrics(self, facts_NK: Tensor) -> dict[str, dict[str, float]]:
        """Precision, recall and F1 of each label."""
        from torchmetrics.functional import classification as metrics

        target_N, y_NC = split_targets_logits(facts_NK)
        classes = len(self.labels)
        found = {
            "precision": metrics.multiclass_precision(y_NC, target_N, classes, "none"),
            "recall": metrics.multiclass_recall(y_NC, target_N, classes, "none"),
            "f1": metrics.multiclass_f1_score(y_NC, target_N, classes, "none"),
            "rows": torch.bincount(target_N, minlength=classes).float(),
        }
        return {
            label: {name: values[index].item() for name, values in found.items()}
            for index, label in enumerate(self.labels)
        }

    def output_schema(self) -> ClassOutput:
        """Labels."""
        return ClassOutput(labels=self.labels)


def split_targets_logits(facts_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Take facts apart: targets int64 (N,), logits (N, C)."""
    return facts_NK[:, 0].long(), facts_NK[:, 1:]
