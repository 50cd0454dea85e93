"""Regression: one number for each row, published in the target's own unit."""
# Shapes: N rows of a split, B rows of a batch; eval outputs K = 2: the target and the prediction.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.dataset import Dataset
from training.data.preprocessing import EncodedRows
from training.schema import NumberOutput
from training.tasks.base import NetOutput, Task


class DenormalizeTarget(nn.Module):
    """Output layer that turns standardized predictions back into the target's unit."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, y_B1: Tensor) -> Tensor:
        """Shape (B, 1): unchanged in training, where the loss is on standardized targets, else in the target's unit."""
        return y_B1 if self.training else y_B1 * self.std + self.mean


class Regression(Task):
    """Mean squared error of standardized targets."""

    primary_metric = "r2"
    output_names = ("value",)

    def encode_rows(self, dataset: Dataset) -> EncodedRows:
        """As in Task, with targets of the output's shape, (N, 1)."""
        rows = super().encode_rows(dataset)
        return EncodedRows(rows.inputs, rows.targets.reshape(-1, 1), rows.lengths)

    @property
    def net_sizes(self) -> dict[str, int]:
        """One output, whatever the labels."""
        return super().net_sizes | {"num_classes": 1}

    def output_layer(self, train: EncodedRows) -> nn.Module:
        """Fit the mean and standard deviation of the training targets; a constant target keeps its scale."""
        std = train.targets.std(correction=0)
        self._denormalize = DenormalizeTarget(train.targets.mean(), torch.where(std > 0, std, torch.ones_like(std)))
        return self._denormalize

    def loss(self, output: NetOutput, batch: EncodedRows) -> Tensor:
        """As in Task, on standardized targets."""
        mean, std = (t.to(batch.targets.device) for t in (self._denormalize.mean, self._denormalize.std))
        return super().loss(output, EncodedRows(batch.inputs, (batch.targets - mean) / std, batch.lengths))

    def default_loss(self, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Mean squared error."""
        assert isinstance(output, Tensor)
        return F.mse_loss(output, batch.targets)

    def eval_outputs(self, net: nn.Module, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Target and prediction."""
        assert isinstance(output, Tensor)
        return torch.cat([batch.targets, output.float()], 1)

    def validation_metrics(self, eval_outputs_NK: Tensor) -> dict[str, float]:
        """R2 (nan for a single row), mean absolute error and root mean squared error."""
        # Imported late: it takes a second, with matplotlib and scipy, that no first training step should wait for.
        from torchmetrics.functional import regression

        target_N, y_N = eval_outputs_NK[:, 0], eval_outputs_NK[:, 1]
        metrics = {
            "r2": regression.r2_score(y_N, target_N).item() if len(target_N) > 1 else float("nan"),
            "mae": regression.mean_absolute_error(y_N, target_N).item(),
            "rmse": regression.mean_squared_error(y_N, target_N, squared=False).item(),
        }
        return {self.primary_metric: metrics[self.primary_metric]} | metrics

    def output_schema(self) -> NumberOutput:
        """The number's name."""
        return NumberOutput(name=self.labels[0] if self.labels else "value")


class Forecasting(Regression):
    """The next value of a series; evaluated by its mean absolute error."""

    primary_metric = "mae"
    higher_is_better = False
