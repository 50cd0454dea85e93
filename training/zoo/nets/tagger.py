"""A tagger: one label for every token, read from the tokens on both sides (Huang, Xu, Yu, 2015, without their CRF).

A token is known by its own vector and, for a language written without spaces, by the pairs that it forms with its left
and right neighbour: pairs share a table of fixed size by hashing (Weinberger et al., 2009), so that it needs no list.
"""
# Shapes: B rows, T tokens, P pairs (T + 1), E width of a token, H width of what the encoder gives, C tags.

import torch
from torch import Tensor, nn

from training.zoo.nets.recurrent import Recurrent

PADDING, UNKNOWN = 0, 1
# Odd, and far from any table's size: neighbouring ids spread over the whole table.
HASH = 1_000_003


class Pairs(nn.Module):
    """The vectors of the pair with the left neighbour and of the pair with the right one, from one hashed table.

    One pair in ten of a new text was never met in training, where every pair is. So training leaves out whole pairs:
    the net learns to do without, and not to know a rare name by its pairs alone. A pair that was never met says, as
    one that is left out, next to nothing.
    """

    def __init__(self, buckets: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.buckets, self.dropout = buckets, dropout
        self.table = nn.Embedding(buckets, dim)
        nn.init.normal_(self.table.weight, std=0.01)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Take token ids (B, T), give (B, T, 2 dim). Beyond both ends of a row stands padding, in a batch or alone."""
        x_BQ = nn.functional.pad(x_BT, (1, 1), value=PADDING)
        e_BPD = self.table((x_BQ[:, :-1] * HASH + x_BQ[:, 1:]) % self.buckets)
        if self.training and self.dropout > 0:
            e_BPD = e_BPD * (torch.rand(e_BPD.shape[:2], device=e_BPD.device) >= self.dropout)[..., None]
        return torch.cat([e_BPD[:, :-1], e_BPD[:, 1:]], dim=-1)


class Tagger(nn.Module):
    """Logits of every token's tag."""

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        dim: int,
        pairs: Pairs | None,
        encoder: Recurrent,
        width: int,
        *,
        dropout: float,
        unknown: float,
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, dim, padding_idx=PADDING)
        nn.init.normal_(self.token.weight, std=0.1)
        self.pairs = pairs
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * width, classes)
        self.unknown = unknown

    def forward(self, x_BT: Tensor) -> Tensor:
        """Take token ids, int64 (B, T), and give logits float32 (B, T, C)."""
        mask_BT = x_BT != PADDING
        if self.training and self.unknown > 0:
            hidden_BT = (torch.rand(x_BT.shape, device=x_BT.device) < self.unknown) & mask_BT
            x_BT = x_BT.masked_fill(hidden_BT, UNKNOWN)
        e_BTE = self.token(x_BT)
        if self.pairs is not None:
            e_BTE = torch.cat([e_BTE, self.pairs(x_BT)], dim=-1)
        h_BTH = self.encoder(self.dropout(e_BTE), mask_BT)
        logits_BTC: Tensor = self.out(self.dropout(h_BTH))
        return logits_BTC


def tagger(
    vocabulary: int,
    classes: int,
    dim: int = 64,
    pair_buckets: int = 0,
    pair_dim: int = 32,
    pair_dropout: float = 0.0,
    cell: str = "lstm",
    width: int = 128,
    layers: int = 1,
    dropout: float = 0.3,
    unknown: float = 0.0,
) -> Tagger:
    """Build a tagger; input int64 (B, T) token ids, output logits (B, T, classes).

    Args:
        vocabulary: tokens, 0 being padding and 1 any unknown one.
        classes: tags.
        dim: numbers for a token.
        pair_buckets: size of the table of neighbouring pairs; 0 for none.
        pair_dim: numbers for a pair.
        pair_dropout: share of the pairs that training leaves out, whole (Iyyer et al., 2015).
        cell: "rnn", "lstm" or "gru".
        width: of each direction.
        layers: of the recurrence.
        dropout: before and after the encoder, and between its layers.
        unknown: share of tokens that training reads as unknown (word dropout, Iyyer et al., 2015): the net learns what
            a word that it has never seen can be told by, its neighbours.
    """
    pairs = Pairs(pair_buckets, pair_dim, pair_dropout) if pair_buckets else None
    encoder = Recurrent(dim + (2 * pair_dim if pairs else 0), width, cell, layers, dropout)
    return Tagger(vocabulary, classes, dim, pairs, encoder, width, dropout=dropout, unknown=unknown)
