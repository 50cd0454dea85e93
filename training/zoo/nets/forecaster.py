"""Time-series forecaster: the sum of a recurrent net and a linear autoregression.

These are the two halves of LSTNet (Lai et al., 2018) without its convolutions: the recurrent net models what is
nonlinear, and the autoregressive "highway" keeps the scale of the input, which bounded hidden states lose.
"""
# Shapes: B rows, T time steps, F features, H hidden size, K time steps of the highway, C outputs.

import torch
from torch import Tensor, nn

from training.zoo.nets.recurrent import CELLS, gather_time_steps


class Forecaster(nn.Module):
    """Predict the values that follow a series.

    Args:
        num_features: F, values of one time step.
        num_outputs: C, values to predict.
        cell_type: "rnn", "lstm" or "gru"; forward only, as the target lies after the last time step.
        hidden_size: H.
        highway_window: K; a shorter series is extended backwards by repeating its first time step.
        dropout: share of the last hidden state dropped in training.
    """

    lags: Tensor

    def __init__(
        self, num_features: int, num_outputs: int, cell_type: str, hidden_size: int, highway_window: int, dropout: float
    ) -> None:
        super().__init__()
        self.rnn = CELLS[cell_type](num_features, hidden_size, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, num_outputs)
        self.highway = nn.Linear(highway_window * num_features, num_outputs)
        self.register_buffer("lags", torch.arange(highway_window), persistent=False)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Map float32 (B, T, F), NaN throughout a padding time step, to (B, C)."""
        last_B1 = (~x_BTF[..., 0].isnan()).sum(1, keepdim=True) - 1
        x_BTF = x_BTF.nan_to_num(0.0)
        h_BH = gather_time_steps(self.rnn(x_BTF)[0], last_B1).flatten(1)
        recent_BKF = gather_time_steps(x_BTF, (last_B1 - self.lags).clamp(min=0))
        y_BC: Tensor = self.head(self.dropout(h_BH)) + self.highway(recent_BKF.flatten(1))
        return y_BC


def forecaster(
    num_features: int,
    num_outputs: int = 1,
    cell_type: str = "gru",
    hidden_size: int = 32,
    highway_window: int = 11,
    dropout: float = 0.0,
) -> Forecaster:
    """Build a forecaster; see `Forecaster` for the arguments."""
    return Forecaster(num_features, num_outputs, cell_type, hidden_size, highway_window, dropout)
