"""LSTM language model (Hochreiter, Schmidhuber, 1997), in the form of Zaremba, Sutskever, Vinyals (2014).

Dropout stands between layers only, never along time. With `tied`, the output layer is the transposed token table
(Press, Wolf, 2017), to whose width the state is brought first.
"""
# Shapes: B rows, T tokens, E width of a token, H width of the state, V vocabulary.

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import linear


class LanguageLSTM(nn.Module):
    """Logits of each next token, from the tokens up to it; the state is empty before a row's first token."""

    def __init__(self, vocabulary: int, width: int, layers: int, embedding: int, dropout: float, *, tied: bool) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, embedding)
        nn.init.normal_(self.token.weight, std=0.1)
        self.dropout = nn.Dropout(dropout)
        sizes = [embedding, *[width] * layers]
        self.layers = nn.ModuleList(nn.LSTM(wide, narrow, batch_first=True) for wide, narrow in pairwise(sizes))
        self.tied = tied
        self.out = nn.Linear(width, embedding if tied else vocabulary)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Take token ids, int64 (B, T), and give logits float32 (B, T, V).

        Padding stands at the end of a row, where the recurrence has passed all that counts: it needs no mask.
        """
        h_BTH = self.dropout(self.token(x_BT))
        for layer in self.layers:
            h_BTH = self.dropout(layer(h_BTH)[0])
        out: Tensor = self.out(h_BTH)
        return linear(out, self.token.weight) if self.tied else out


def language_lstm(
    vocabulary: int, width: int = 384, layers: int = 1, embedding: int = 128, dropout: float = 0.0, tied: bool = True
) -> LanguageLSTM:
    """Build an LSTM language model; input int64 (B, T) token ids, output logits float32 (B, T, vocabulary)."""
    return LanguageLSTM(vocabulary, width, layers, embedding, dropout, tied=tied)
