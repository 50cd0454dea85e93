"""Regression: one number for each row, published in the target's own unit."""
# Shapes: N rows, B rows of a batch; facts are target and prediction.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.preprocessing import EncodedRows
from training.schema import NumberOutput
from training.tasks.base import Outputs, Task


class DenormalizeTarget(nn.Module):
    """Give a net that works in standard deviations its target's unit back."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, y_B1: Tensor) -> Tensor:
        """Shape (B, 1): the same in training, where the loss is in standard deviations; in the unit afterwards."""
        return y_B1 if self.training else y_B1 * self.std + self.mean


class Regression(Task):
    """Mean squared error of standardised targets."""

    metric = "r2"
    outputs = ("value",)

    def encode_rows(self, dataset):  # type: ignore[no-untyped-def]
        """Targets get the output's shape, (N, 1)."""
        rows = super().encode_rows(dataset)
        return EncodedRows(rows.inputs, rows.targets.reshape(-1, 1), rows.lengths)

    @property
    def net_sizes(self) -> dict[str, int]:
        """One output."""
        return super().net_sizes | {"classes": 1}

    def output_layer(self, train: EncodedRows) -> nn.Module:
        """From standard deviations of the training targets to their unit."""
        deviation = train.targets.std(correction=0)
        self._unit = DenormalizeTarget(
            train.targets.mean(), torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        )
        return self._unit

    def loss(self, output: Outputs, batch: EncodedRows) -> Tensor:
        """As in Task, with standardised targets."""
        mean, deviation = (t.to(batch.targets.device) for t in (self._unit.mean, self._unit.std))
        return super().loss(output, EncodedRows(batch.inputs, (batch.targets - mean) / deviation, batch.lengths))

    def default_loss(self, output: Outputs, batch: EncodedRows) -> Tensor:
        """Mean squared error."""
        assert isinstance(output, Tensor)
        return F.mse_loss(output, batch.targets)

    def eval_outputs(self, net: nn.Module, output: Outputs, batch: EncodedRows) -> Tensor:
        """Target and prediction."""
        assert isinstance(output, Tensor)
        return torch.cat([batch.targets, output.float()], 1)

    def validation_metrics(self, facts_NK: Tensor) -> dict[str, float]:
        """R2, mean absolute error and root of the mean squared error."""
        # Brings scipy and matplotlib with it: not before a worker's first step.
        from torchmetrics.functional import regression as metrics

        target_N, y_N = facts_NK[:, 0], facts_NK[:, 1]
        found = {
            "r2": metrics.r2_score(y_N, target_N).item() if len(target_N) > 1 else float("nan"),
            "mae": metrics.mean_absolute_error(y_N, target_N).item(),
            "rmse": metrics.mean_squared_error(y_N, target_N, squared=False).item(),
        }
        return {self.metric: found[self.metric]} | found

    def output_schema(self) -> NumberOutput:
        """The number's name."""
        return NumberOutput(name=self.labels[0] if self.labels else "value")


class Forecasting(Regression):
    """The next value of a series: judged by its mean absolute error."""

    metric = "mae"
    higher_is_better = False
