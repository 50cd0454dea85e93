"""Forecaster of a series: a recurrent net beside a linear autoregression, which are added.

The two halves of LSTNet (Lai et al., 2018) without its convolutions: the net bends what the autoregression, its
"highway", says in a straight line, and the highway keeps the scale of the input, which a net of bounded states loses.
"""
# Shapes: B rows, T steps, F features, H numbers of a state, K steps of the highway, C outputs.

import torch
from torch import Tensor, nn

from training.zoo.nets.recurrent import CELLS


class Forecaster(nn.Module):
    """Foretell what comes after a series.

    Args:
        features: F, the numbers of one step.
        classes: C, the numbers that are foretold.
        cell: "rnn", "lstm" or "gru", reading forward: what is asked for lies after the last step.
        width: H.
        highway: K; a series of fewer steps is continued backwards by its first one.
        dropout: share of the last state that is dropped in training.
    """

    back: Tensor

    def __init__(self, features: int, classes: int, cell: str, width: int, highway: int, dropout: float) -> None:
        super().__init__()
        self.recurrence = CELLS[cell](features, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)
        self.highway = nn.Linear(highway * features, classes)
        self.register_buffer("back", torch.arange(highway), persistent=False)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Take float32 (B, T, F), a padding step NaN throughout; gives (B, C)."""
        last_B1 = (~x_BTF[..., 0].isnan()).sum(1, keepdim=True) - 1
        x_BTF = x_BTF.nan_to_num(0.0)
        h_BH = _take(self.recurrence(x_BTF)[0], last_B1).flatten(1)
        recent_BKF = _take(x_BTF, (last_B1 - self.back).clamp(min=0))
        y_BC: Tensor = self.head(self.dropout(h_BH)) + self.highway(recent_BKF.flatten(1))
        return y_BC


def _take(x_BTD: Tensor, steps_BK: Tensor) -> Tensor:
    return x_BTD.gather(1, steps_BK[..., None].expand(-1, -1, x_BTD.shape[2]))


def forecaster(
    features: int, classes: int, cell: str = "gru", width: int = 32, highway: int = 11, dropout: float = 0.0
) -> Forecaster:
    """Build a forecaster whose highway reads the last `highway` steps."""
    return Forecaster(features, classes, cell, width, highway, dropout)
