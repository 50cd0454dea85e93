"""Recurrent nets read in both directions, to classify texts and real-valued sequences.

Bidirectional (Schuster, Paliwal, 1997), over a plain tanh cell (Elman, 1990), LSTM (Hochreiter, Schmidhuber, 1997) or
GRU (Cho et al., 2014). The second direction is a recurrence of its own over each row reversed within its own length:
padding then never comes before a row's last step, and no packing is needed, which torch.export does not know.
"""
# Shapes: B rows, T steps, F features, E width of what a recurrence reads, H width of what it gives (both directions).

import torch
from torch import Tensor, nn

CELLS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """Encode every step of a sequence from what stands before and after it.

    Args:
        width_in: E, the numbers of one step.
        width: what each direction gives, H / 2.
        cell: "rnn", "lstm" or "gru".
        layers: how many; the second reads both directions of the first.
        dropout: share of the numbers between two layers that is dropped in training.
    """

    def __init__(self, width_in: int, width: int, cell: str, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [width_in] + [2 * width] * (layers - 1)
        self.left_to_right = nn.ModuleList(CELLS[cell](wide, width, batch_first=True) for wide in widths)
        self.right_to_left = nn.ModuleList(CELLS[cell](wide, width, batch_first=True) for wide in widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, e_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """Encode float32 (B, T, E), where mask_BT is true for the steps that count; these come first in their row.

        Returns:
            Shape (B, T, H), zero where the mask is false.
        """
        turned_BT = _turned(mask_BT)
        h_BTH = e_BTE
        for depth, (ahead, back) in enumerate(zip(self.left_to_right, self.right_to_left, strict=True)):
            x_BTE = self.dropout(h_BTH) if depth else h_BTH
            before_BTD, after_BTD = ahead(x_BTE)[0], back(_take(x_BTE, turned_BT))[0]
            h_BTH = torch.cat([before_BTD, _take(after_BTD, turned_BT)], dim=-1)
        return h_BTH * mask_BT[..., None]


def _turned(mask_BT: Tensor) -> Tensor:
    """Say which step stands where once each row is reversed within its length; padding stays in its place."""
    n_B1 = mask_BT.sum(1, keepdim=True)
    t_1T = torch.arange(mask_BT.shape[1], device=mask_BT.device)[None]
    return torch.where(t_1T < n_B1, n_B1 - 1 - t_1T, t_1T)


def _take(x_BTD: Tensor, steps_BT: Tensor) -> Tensor:
    return x_BTD.gather(1, steps_BT[..., None].expand_as(x_BTD))


class Pooled(nn.Module):
    """Encode a sequence, pool it over time by mean and by maximum, and give logits (B, classes)."""

    def __init__(self, encoder: Recurrent, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, e_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """Classify float32 (B, T, E)."""
        h_BTH = self.encoder(e_BTE, mask_BT)
        mean_BH = h_BTH.sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1)
        # All three cells give numbers between -1 and 1, so that -1 never wins against a step that counts.
        max_BH = h_BTH.masked_fill(~mask_BT[..., None], -1.0).amax(1)
        logits_BC: Tensor = self.head(self.dropout(torch.cat([mean_BH, max_BH], dim=-1)))
        return logits_BC


class RecurrentClassifier(nn.Module):
    """Classify texts: token ids int64 (B, T), 0 for padding, to logits (B, classes)."""

    def __init__(self, vocabulary: int, dim: int, pooled: Pooled, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.pooled = pooled

    def forward(self, x_BT: Tensor) -> Tensor:
        """Give logits (B, classes)."""
        logits_BC: Tensor = self.pooled(self.dropout(self.embedding(x_BT)), x_BT != 0)
        return logits_BC


class SequenceClassifier(nn.Module):
    """Classify real-valued sequences: float32 (B, T, F), a padding step NaN throughout, to logits (B, classes)."""

    def __init__(self, features: int, pooled: Pooled) -> None:
        super().__init__()
        self.features = features
        self.pooled = pooled

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Give logits (B, classes)."""
        logits_BC: Tensor = self.pooled(x_BTF.nan_to_num(0.0), ~x_BTF[..., 0].isnan())
        return logits_BC


def recurrent_classifier(
    vocabulary: int,
    classes: int,
    cell: str,
    dim: int = 128,
    width: int = 64,
    layers: int = 1,
    dropout: float = 0.3,
) -> RecurrentClassifier:
    """Build a text classifier: `dim` numbers for a token, `width` for each direction, dropout before every layer."""
    pooled = Pooled(Recurrent(dim, width, cell, layers, dropout), width, classes, dropout)
    return RecurrentClassifier(vocabulary, dim, pooled, dropout)


def sequence_classifier(
    features: int,
    classes: int,
    cell: str,
    width: int = 64,
    layers: int = 1,
    dropout: float = 0.3,
) -> SequenceClassifier:
    """Build a classifier of real-valued sequences: `width` for each direction, dropout before the head."""
    return SequenceClassifier(
        features, Pooled(Recurrent(features, width, cell, layers, dropout), width, classes, dropout)
    )
