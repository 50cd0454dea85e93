"""LSTM language model (Hochreiter, Schmidhuber, 1997), regularized as by Zaremba, Sutskever, Vinyals (2014).

Dropout is applied between layers only, never along time. With `tie_weights` the output layer is the transposed
embedding table (Press, Wolf, 2017), after a projection of the hidden state to the embedding dimension.
"""
# Shapes: B rows, T tokens, E embedding dimension, H hidden size, V vocabulary size.

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import linear


class LanguageLSTM(nn.Module):
    """Next-token logits at each token; the hidden state starts at zero for every row."""

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        embedding_dim: int,
        dropout: float,
        *,
        tie_weights: bool,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.dropout = nn.Dropout(dropout)
        sizes = [embedding_dim, *[hidden_size] * num_layers]
        self.layers = nn.ModuleList(
            nn.LSTM(input_size, output_size, batch_first=True) for input_size, output_size in pairwise(sizes)
        )
        self.tie_weights = tie_weights
        self.out_proj = nn.Linear(hidden_size, embedding_dim if tie_weights else vocab_size)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Map token ids, int64 (B, T), to logits float32 (B, T, V).

        Padding comes last in a row, after every token that counts, so that it needs no mask.
        """
        h_BTH = self.dropout(self.embedding(x_BT))
        for layer in self.layers:
            h_BTH = self.dropout(layer(h_BTH)[0])
        out: Tensor = self.out_proj(h_BTH)
        return linear(out, self.embedding.weight) if self.tie_weights else out


def language_lstm(
    vocab_size: int,
    hidden_size: int = 384,
    num_layers: int = 1,
    embedding_dim: int = 128,
    dropout: float = 0.0,
    tie_weights: bool = True,
) -> LanguageLSTM:
    """Build an LSTM language model; input int64 (B, T) token ids, output logits float32 (B, T, vocab_size)."""
    return LanguageLSTM(vocab_size, hidden_size, num_layers, embedding_dim, dropout, tie_weights=tie_weights)
