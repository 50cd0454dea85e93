"""Token tagger: one label for each token, read from both sides (BiLSTM of Huang, Xu, Yu, 2015, without their CRF).

A token is represented by its own embedding and, for a language written without spaces, by the bigrams it forms with its
left and right neighbors: bigrams share a table of fixed size by hashing (Weinberger et al., 2009), with no vocabulary.
"""
# Shapes: B rows, T tokens, P padded tokens (T + 2), G bigrams (T + 1), D bigram embedding, E encoder input,
# H encoder output, C tags.

import torch
from torch import Tensor, nn

from training.data.tokenizer import UNK_ID
from training.schema import TextInput
from training.zoo.nets.recurrent import BidirectionalRNN

PAD_ID = TextInput.padding_value
# Odd, and far from any table size: neighboring ids spread over the whole table.
HASH_MULTIPLIER = 1_000_003


class HashedBigrams(nn.Module):
    """Embeddings of each token's left bigram and right bigram, from one hashed table.

    One bigram in ten of a new text is unseen in training. So training drops bigrams at random: the net learns to do
    without them, and not to recognize a rare name by its bigrams alone. The embedding of an unseen bigram stays close
    to zero, as that of a dropped one is.
    """

    def __init__(self, num_buckets: int, embedding_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_buckets, self.dropout = num_buckets, dropout
        self.embedding = nn.Embedding(num_buckets, embedding_dim)
        nn.init.normal_(self.embedding.weight, std=0.01)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Map token ids (B, T) to (B, T, 2 D); both ends of a row are padded, so that a batch changes nothing."""
        x_BP = nn.functional.pad(x_BT, (1, 1), value=PAD_ID)
        e_BGD = self.embedding((x_BP[:, :-1] * HASH_MULTIPLIER + x_BP[:, 1:]) % self.num_buckets)
        if self.training and self.dropout > 0:
            e_BGD = e_BGD * (torch.rand(e_BGD.shape[:2], device=e_BGD.device) >= self.dropout)[..., None]
        return torch.cat([e_BGD[:, :-1], e_BGD[:, 1:]], dim=-1)


class Tagger(nn.Module):
    """Tag logits at each token."""

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        embedding_dim: int,
        bigrams: HashedBigrams | None,
        encoder: BidirectionalRNN,
        hidden_size: int,
        *,
        dropout: float,
        word_dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=PAD_ID)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.bigrams = bigrams
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * hidden_size, num_classes)
        self.word_dropout = word_dropout

    def forward(self, x_BT: Tensor) -> Tensor:
        """Map token ids, int64 (B, T), to logits float32 (B, T, C)."""
        mask_BT = x_BT != PAD_ID
        if self.training and self.word_dropout > 0:
            dropped_BT = (torch.rand(x_BT.shape, device=x_BT.device) < self.word_dropout) & mask_BT
            x_BT = x_BT.masked_fill(dropped_BT, UNK_ID)
        e_BTE = self.embedding(x_BT)
        if self.bigrams is not None:
            e_BTE = torch.cat([e_BTE, self.bigrams(x_BT)], dim=-1)
        h_BTH = self.encoder(self.dropout(e_BTE), mask_BT)
        logits_BTC: Tensor = self.head(self.dropout(h_BTH))
        return logits_BTC


def tagger(
    vocab_size: int,
    num_classes: int,
    embedding_dim: int = 64,
    num_bigram_buckets: int = 0,
    bigram_embedding_dim: int = 32,
    bigram_dropout: float = 0.0,
    cell_type: str = "lstm",
    hidden_size: int = 128,
    num_layers: int = 1,
    dropout: float = 0.3,
    word_dropout: float = 0.0,
) -> Tagger:
    """Build a tagger; input int64 (B, T) token ids, output logits (B, T, num_classes).

    Args:
        vocab_size: number of tokens; id 0 is padding and 1 is unknown.
        num_classes: number of tags.
        embedding_dim: of a token.
        num_bigram_buckets: rows of the hashed bigram table; 0 for no bigrams.
        bigram_embedding_dim: D.
        bigram_dropout: share of the bigrams dropped in training (Iyyer et al., 2015).
        cell_type: "rnn", "lstm" or "gru".
        hidden_size: of each direction.
        num_layers: of the encoder.
        dropout: before and after the encoder, and between its layers.
        word_dropout: share of the tokens read as unknown in training (Iyyer et al., 2015): the net learns to tag an
            unseen word by its neighbors.
    """
    bigrams = HashedBigrams(num_bigram_buckets, bigram_embedding_dim, bigram_dropout) if num_bigram_buckets else None
    input_size = embedding_dim + (2 * bigram_embedding_dim if bigrams else 0)
    encoder = BidirectionalRNN(input_size, hidden_size, cell_type, num_layers, dropout)
    return Tagger(
        vocab_size,
        num_classes,
        embedding_dim,
        bigrams,
        encoder,
        hidden_size,
        dropout=dropout,
        word_dropout=word_dropout,
    )
