"""Bidirectional recurrent classifiers of texts and of real-valued series.

Bidirectional (Schuster, Paliwal, 1997), over a plain tanh cell (Elman, 1990), LSTM (Hochreiter, Schmidhuber, 1997) or
GRU (Cho et al., 2014). The backward direction is an RNN of its own over each row reversed within its own length:
padding then never precedes a row's last time step, and no packed sequence is needed, which torch.export cannot trace.
"""
# Shapes: B rows, T time steps or tokens, F features, E input size, H output size of the encoder (2 * hidden_size),
# K gathered time steps, C classes.

import torch
from torch import Tensor, nn

CELLS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class BidirectionalRNN(nn.Module):
    """Encode each time step of a padded sequence from both sides.

    Args:
        input_size: E.
        hidden_size: H / 2, of each direction.
        cell_type: "rnn", "lstm" or "gru".
        num_layers: each layer after the first reads both directions of the one below.
        dropout: between two layers, in training.
    """

    def __init__(
        self, input_size: int, hidden_size: int, cell_type: str, num_layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        cell, input_sizes = CELLS[cell_type], [input_size] + [2 * hidden_size] * (num_layers - 1)
        self.forward_layers = nn.ModuleList(cell(size, hidden_size, batch_first=True) for size in input_sizes)
        self.backward_layers = nn.ModuleList(cell(size, hidden_size, batch_first=True) for size in input_sizes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, e_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """Encode float32 (B, T, E); mask_BT is true at the time steps that are not padding, which come first.

        Returns:
            Shape (B, T, H), zero at padding.
        """
        reversed_BT = _reversed_index(mask_BT)
        h_BTH = e_BTE
        layers = zip(self.forward_layers, self.backward_layers, strict=True)
        for depth, (forward_layer, backward_layer) in enumerate(layers):
            x_BTE = self.dropout(h_BTH) if depth else h_BTH
            forward_BTD = forward_layer(x_BTE)[0]
            backward_BTD = backward_layer(gather_time_steps(x_BTE, reversed_BT))[0]
            h_BTH = torch.cat([forward_BTD, gather_time_steps(backward_BTD, reversed_BT)], dim=-1)
        return h_BTH * mask_BT[..., None]


def _reversed_index(mask_BT: Tensor) -> Tensor:
    """Index, int64 (B, T), that reverses each row within its length and leaves padding where it is."""
    length_B1 = mask_BT.sum(1, keepdim=True)
    t_1T = torch.arange(mask_BT.shape[1], device=mask_BT.device)[None]
    return torch.where(t_1T < length_B1, length_B1 - 1 - t_1T, t_1T)


def gather_time_steps(x_BTE: Tensor, index_BK: Tensor) -> Tensor:
    """Select time steps of each row by index, int64 (B, K); shape (B, K, E)."""
    return x_BTE.gather(1, index_BK[..., None].expand(-1, -1, x_BTE.shape[2]))


class MeanMaxClassifier(nn.Module):
    """Encode a sequence, pool it over time by mean and by maximum, and classify."""

    def __init__(self, encoder: BidirectionalRNN, hidden_size: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * hidden_size, num_classes)

    def forward(self, e_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """Map float32 (B, T, E) to logits (B, C)."""
        h_BTH = self.encoder(e_BTE, mask_BT)
        mean_BH = h_BTH.sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1)
        # All three cells have outputs above -1, so that padding set to -1 is never the maximum.
        max_BH = h_BTH.masked_fill(~mask_BT[..., None], -1.0).amax(1)
        logits_BC: Tensor = self.head(self.dropout(torch.cat([mean_BH, max_BH], dim=-1)))
        return logits_BC


class RNNTextClassifier(nn.Module):
    """Classify texts: token ids int64 (B, T), 0 for padding, to logits (B, C)."""

    def __init__(self, vocab_size: int, embedding_dim: int, classifier: MeanMaxClassifier, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.classifier = classifier

    def forward(self, x_BT: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits_BC: Tensor = self.classifier(self.dropout(self.embedding(x_BT)), x_BT != 0)
        return logits_BC


class RNNSeriesClassifier(nn.Module):
    """Classify real-valued series: float32 (B, T, F), NaN throughout a padding time step, to logits (B, C)."""

    def __init__(self, classifier: MeanMaxClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits_BC: Tensor = self.classifier(x_BTF.nan_to_num(0.0), ~x_BTF[..., 0].isnan())
        return logits_BC


def rnn_text_classifier(
    vocab_size: int,
    num_classes: int,
    cell_type: str,
    embedding_dim: int = 128,
    hidden_size: int = 64,
    num_layers: int = 1,
    dropout: float = 0.3,
) -> RNNTextClassifier:
    """Build a text classifier: `hidden_size` for each direction, dropout before every layer."""
    encoder = BidirectionalRNN(embedding_dim, hidden_size, cell_type, num_layers, dropout)
    classifier = MeanMaxClassifier(encoder, hidden_size, num_classes, dropout)
    return RNNTextClassifier(vocab_size, embedding_dim, classifier, dropout)


def rnn_series_classifier(
    num_features: int,
    num_classes: int,
    cell_type: str,
    hidden_size: int = 64,
    num_layers: int = 1,
    dropout: float = 0.3,
) -> RNNSeriesClassifier:
    """Build a series classifier: `hidden_size` for each direction, dropout before every layer but the first."""
    encoder = BidirectionalRNN(num_features, hidden_size, cell_type, num_layers, dropout)
    return RNNSeriesClassifier(MeanMaxClassifier(encoder, hidden_size, num_classes, dropout))
