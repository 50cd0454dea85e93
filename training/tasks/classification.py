"""Classification: one of C labels for each row, be that a text, an image, a series or a table's row."""
# Shapes: N rows of a split, B rows of a batch, C classes; eval outputs K = 1 + C: the target, then the logits.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.preprocessing import EncodedRows
from training.schema import ClassOutput
from training.tasks.base import NetOutput, Task


class TwoLogits(nn.Module):
    """Output layer that turns one binary logit y into two: softmax([0, y]) = [1 - sigmoid(y), sigmoid(y)]."""

    def forward(self, y_B1: Tensor) -> Tensor:
        """Shape (B, 1); unchanged in training, where the loss takes one logit, else (B, 2)."""
        return y_B1 if self.training else torch.cat([torch.zeros_like(y_B1), y_B1], 1)


class Classification(Task):
    """Cross-entropy over C logits; binary cross-entropy where the net outputs one logit for two labels."""

    primary_metric = "accuracy"

    @property
    def _is_binary(self) -> bool:
        return len(self.labels) == 2 and self.recipe.net.args.get("num_classes") == 1

    def output_layer(self, train: EncodedRows) -> nn.Module | None:
        """`TwoLogits` where the net outputs one logit."""
        return TwoLogits() if self._is_binary else None

    def loss(self, output: NetOutput, batch: EncodedRows) -> Tensor:
        """As in Task; a custom binary loss gets float targets of shape (B, 1), as torch's binary losses expect."""
        if self._custom_loss and self._is_binary and isinstance(output, Tensor):
            return self._custom_loss(output, batch.targets[:, None].to(output.dtype), **self._custom_loss_args)
        return super().loss(output, batch)

    def default_loss(self, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Cross-entropy, binary or over all classes."""
        assert isinstance(output, Tensor)
        if self._is_binary:
            return F.binary_cross_entropy_with_logits(output, batch.targets[:, None].to(output.dtype))
        return F.cross_entropy(output, batch.targets)

    def eval_outputs(self, net: nn.Module, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Target and logits."""
        assert isinstance(output, Tensor)
        return torch.cat([batch.targets[:, None].float(), output.float()], 1)

    def validation_metrics(self, eval_outputs_NK: Tensor) -> dict[str, float]:
        """Accuracy and cross-entropy."""
        target_N, y_NC = split_targets_logits(eval_outputs_NK)
        return {
            "accuracy": (y_NC.argmax(1) == target_N).float().mean().item(),
            "cross_entropy": F.cross_entropy(y_NC, target_N).item(),
        }

    def metrics(self, eval_outputs_NK: Tensor) -> dict[str, float]:
        """Adds macro-averaged precision, recall, F1 and area under the ROC curve (one-vs-rest)."""
        # Imported late: it takes a second, with matplotlib and scipy, that no first training step should wait for.
        from torchmetrics.functional import classification

        target_N, y_NC = split_targets_logits(eval_outputs_NK)
        num_classes = len(self.labels)
        macro = {
            "precision": classification.multiclass_precision(y_NC, target_N, num_classes, "macro"),
            "recall": classification.multiclass_recall(y_NC, target_N, num_classes, "macro"),
            "f1": classification.multiclass_f1_score(y_NC, target_N, num_classes, "macro"),
            "roc_auc": classification.multiclass_auroc(y_NC.softmax(1), target_N, num_classes, "macro"),
        }
        return self.validation_metrics(eval_outputs_NK) | {name: value.item() for name, value in macro.items()}

    def per_class_metrics(self, eval_outputs_NK: Tensor) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each label."""
        from torchmetrics.functional import classification

        target_N, y_NC = split_targets_logits(eval_outputs_NK)
        num_classes = len(self.labels)
        by_class = {
            "precision": classification.multiclass_precision(y_NC, target_N, num_classes, "none"),
            "recall": classification.multiclass_recall(y_NC, target_N, num_classes, "none"),
            "f1": classification.multiclass_f1_score(y_NC, target_N, num_classes, "none"),
            "support": torch.bincount(target_N, minlength=num_classes).float(),
        }
        return {
            label: {name: values_C[index].item() for name, values_C in by_class.items()}
            for index, label in enumerate(self.labels)
        }

    def output_schema(self) -> ClassOutput:
        """The labels; the temperature is fitted after training."""
        return ClassOutput(labels=self.labels)


def split_targets_logits(eval_outputs_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Split a classifier's eval outputs into targets, int64 (N,), and logits, (N, C)."""
    return eval_outputs_NK[:, 0].long(), eval_outputs_NK[:, 1:]
