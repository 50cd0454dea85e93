"""Bag of n-grams: the fastText classifier (Joulin et al., 2017), with the n-grams hashed inside the net.

The input is token ids, as for every text net: over characters it is a bag of character n-grams, over words one of word
n-grams. Training drops n-grams at random (Iyyer et al., 2015), which keeps the net from memorizing rare ones.
"""
# Shapes: B rows, T tokens, G n-grams of all orders, D embedding dimension, C classes.

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from training.errors import UserError

HASH_MULTIPLIER = 1_000_003


def ngram_indices(x_BT: Tensor, order: int, vocab_size: int, num_buckets: int) -> Tensor:
    """Index of the n-gram that begins at each token, in an embedding table of vocab_size + num_buckets rows.

    A unigram has a row of its own; longer n-grams are hashed into the last `num_buckets` rows, as in fastText.

    Returns:
        int64, shape (B, T); 0, the padding row, where the n-gram would reach past the end of the text.
    """
    if order == 1:
        return x_BT
    seq_len = x_BT.shape[1]
    padded = nn.functional.pad(x_BT, (0, order - 1))
    hash_BT = x_BT
    for offset in range(1, order):
        # The modulo at each iteration keeps the product within int64 for n-grams of any order.
        hash_BT = (hash_BT * HASH_MULTIPLIER + padded[:, offset : offset + seq_len]) % num_buckets
    # Padding comes last: where an n-gram's last token is not padding, none is.
    return torch.where(padded[:, order - 1 :] != 0, vocab_size + hash_BT, 0)


class BagOfNgrams(nn.Module):
    """Mean of the embeddings of all n-grams, uniform or weighted, then one linear layer.

    Args:
        vocab_size: number of tokens, padding and unknown included.
        num_classes: C.
        ngram_orders: lengths of the n-grams.
        num_buckets: embedding rows shared by all n-grams of order 2 and above.
        embedding_dim: D.
        ngram_dropout: share of the n-grams dropped in training.
        combiner: "mean", or "sqrtn" for the mean times the square root of the number of n-grams, as in the Universal
            Sentence Encoder (Cer et al., 2018): a long text carries more evidence than a short one, which a mean loses.
        attention_pooling: learn the weight of each n-gram in the mean, starting from equal weights. The score depends
            on the n-gram alone, the simplest form of attention (Yang et al., 2016), and takes the place of an idf.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        ngram_orders: Sequence[int],
        num_buckets: int,
        embedding_dim: int,
        *,
        ngram_dropout: float,
        combiner: Literal["mean", "sqrtn"],
        attention_pooling: bool,
    ) -> None:
        super().__init__()
        if combiner not in ("mean", "sqrtn"):
            raise UserError(f"combiner={combiner!r}; use 'mean' or 'sqrtn'")
        self.combiner, self.ngram_dropout = combiner, ngram_dropout
        self.vocab_size, self.ngram_orders, self.num_buckets = vocab_size, tuple(ngram_orders), num_buckets
        self.embedding = nn.Embedding(vocab_size + num_buckets, embedding_dim, padding_idx=0)
        # As in fastText: an n-gram unseen in training should contribute close to nothing.
        nn.init.uniform_(self.embedding.weight[1:], -1 / embedding_dim, 1 / embedding_dim)
        self.attention_score = nn.Embedding(vocab_size + num_buckets, 1) if attention_pooling else None
        if self.attention_score is not None:
            nn.init.zeros_(self.attention_score.weight)
        self.head = nn.Linear(embedding_dim, num_classes)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Classify token ids int64 (B, T), 0 for padding; logits (B, C)."""
        indices = [ngram_indices(x_BT, order, self.vocab_size, self.num_buckets) for order in self.ngram_orders]
        index_BG = torch.cat(indices, dim=1)
        count_B1 = (index_BG != 0).sum(1, keepdim=True)
        if self.training:
            index_BG = index_BG * (torch.rand(index_BG.shape, device=index_BG.device) >= self.ngram_dropout)
        # Not nn.EmbeddingBag: torch.export fixes its batch dimension.
        e_BGD = self.embedding(index_BG)
        weight_BG = index_BG != 0
        if self.attention_score is not None:
            weight_BG = weight_BG * self.attention_score(index_BG)[..., 0].exp()
            e_BGD = e_BGD * weight_BG[..., None]
        # The clamp makes the mean of a text without n-grams zero, not NaN.
        mean_BD = e_BGD.sum(1) / weight_BG.sum(1, keepdim=True).clamp(min=1e-6)
        if self.combiner == "sqrtn":
            mean_BD = mean_BD * count_B1.sqrt()
        logits_BC: Tensor = self.head(mean_BD)
        return logits_BC


def bag_of_ngrams(
    vocab_size: int,
    num_classes: int,
    ngram_orders: Sequence[int] = (1, 2, 3),
    num_buckets: int = 65_536,
    embedding_dim: int = 32,
    ngram_dropout: float = 0.3,
    combiner: Literal["mean", "sqrtn"] = "mean",
    attention_pooling: bool = False,
) -> BagOfNgrams:
    """Build a bag-of-n-grams classifier; see `BagOfNgrams` for the arguments."""
    return BagOfNgrams(
        vocab_size,
        num_classes,
        ngram_orders,
        num_buckets,
        embedding_dim,
        ngram_dropout=ngram_dropout,
        combiner=combiner,
        attention_pooling=attention_pooling,
    )
