"""Regression: one number for each row, published in the target's own unit."""
# Shapes: N rows, B rows of a batch; facts are target and prediction.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.prepare import Rows
from training.tasks.base import Outputs, Task
from training.words import Number


class Unit(nn.Module):
    """Give a net that works in standard deviations its target's unit back."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, y_B1: Tensor) -> Tensor:
        """Shape (B, 1): the same in training, where the loss is in standard deviations; in the unit afterwards."""
        return y_B1 if self.training else y_B1 * self.deviation + self.mean


class Regression(Task):
    """Mean squared error of standardised targets."""

    metric = "r2"
    outputs = ("value",)

    def rows(self, dataset):  # type: ignore[no-untyped-def]
        """Targets get the output's shape, (N, 1)."""
        rows = super().rows(dataset)
        return Rows(rows.inputs, rows.targets.reshape(-1, 1), rows.lengths)

    @property
    def sizes(self) -> dict[str, int]:
        """One output."""
        return super().sizes | {"classes": 1}

    def back(self, train: Rows) -> nn.Module:
        """From standard deviations of the training targets to their unit."""
        deviation = train.targets.std(correction=0)
        self._unit = Unit(train.targets.mean(), torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
        return self._unit

    def loss(self, output: Outputs, batch: Rows) -> Tensor:
        """As in Task, with standardised targets."""
        mean, deviation = (t.to(batch.targets.device) for t in (self._unit.mean, self._unit.deviation))
        return super().loss(output, Rows(batch.inputs, (batch.targets - mean) / deviation, batch.lengths))

    def default_loss(self, output: Outputs, batch: Rows) -> Tensor:
        """Mean squared error."""
        assert isinstance(output, Tensor)
        return F.mse_loss(output, batch.targets)

    def facts(self, net: nn.Module, output: Outputs, batch: Rows) -> Tensor:
        """Target and prediction."""
        assert isinstance(output, Tensor)
        return torch.cat([batch.targets, output.float()], 1)

    def scores(self, facts_NK: Tensor) -> dict[str, float]:
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

    def answer(self) -> Number:
        """The number's name."""
        return Number(name=self.labels[0] if self.labels else "value")


class Forecast(Regression):
    """The next value of a series: judged by its mean absolute error."""

    metric = "mae"
    higher = False
