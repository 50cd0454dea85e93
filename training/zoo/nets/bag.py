"""Bag of n-grams: fastText's classifier (Joulin et al., 2017), its n-grams hashed inside the net.

The net takes token ids as every other text net does: over characters it is a bag of character n-grams, over words one
of word n-grams. In training whole n-grams are dropped (Iyyer et al., 2015), which keeps rare ones from being learnt
by heart.
"""
# Shapes: B rows, T tokens, G n-grams of all orders, D width of an embedding, C classes.

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PRIME = 1_000_003


def gram_rows(x_BT: Tensor, order: int, vocabulary: int, buckets: int) -> Tensor:
    """Say which row of a table of (vocabulary + buckets) rows belongs to the n-gram that begins at each token.

    A single token has its own row, longer n-grams share the `buckets` rows after them, as in fastText.

    Returns:
        int64, shape (B, T); 0, the row of padding, where the n-gram would reach past the end of the text.
    """
    if order == 1:
        return x_BT
    tokens = x_BT.shape[1]
    padded = nn.functional.pad(x_BT, (0, order - 1))
    hash_BT = x_BT
    for k in range(1, order):
        # The remainder at each step keeps the product within int64 for n-grams of any order.
        hash_BT = (hash_BT * PRIME + padded[:, k : k + tokens]) % buckets
    # Padding comes last: where an n-gram's last token is not padding, none is.
    return torch.where(padded[:, order - 1 :] != 0, vocabulary + hash_BT, 0)


class Bag(nn.Module):
    """Mean of the embeddings of all n-grams, equal or weighted, then one linear layer.

    A mean says as little of a long text as of a short one, though the long one gives more reasons. Times the root of
    the number of n-grams, as in the Universal Sentence Encoder (Cer et al., 2018), it counts them without shouting.

    Args:
        vocabulary: tokens, padding and "unknown" among them.
        classes: C.
        orders: lengths of the n-grams.
        buckets: rows that the n-grams longer than one share.
        dim: D.
        dropout: share of the n-grams that is dropped in training.
        root: multiply the mean by the root of the number of n-grams.
        weighted: learn how much each n-gram counts in the mean, from equal weights on: the attention of the simplest
            kind, whose score depends on the n-gram alone (Yang et al., 2016), in place of an idf that is counted.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        orders: Sequence[int],
        buckets: int,
        dim: int,
        *,
        dropout: float,
        root: bool,
        weighted: bool,
    ) -> None:
        super().__init__()
        self.root = root
        self.vocabulary, self.orders, self.buckets, self.dropout = vocabulary, tuple(orders), buckets, dropout
        self.table = nn.Embedding(vocabulary + buckets, dim, padding_idx=0)
        # As in fastText: an n-gram that was never met must say next to nothing.
        nn.init.uniform_(self.table.weight[1:], -1 / dim, 1 / dim)
        self.score = nn.Embedding(vocabulary + buckets, 1) if weighted else None
        if self.score is not None:
            nn.init.zeros_(self.score.weight)
        self.head = nn.Linear(dim, classes)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Classify token ids int64 (B, T), 0 for padding; logits (B, C)."""
        grams = [gram_rows(x_BT, order, self.vocabulary, self.buckets) for order in self.orders]
        rows_BG = torch.cat(grams, dim=1)
        all_B1 = (rows_BG != 0).sum(1, keepdim=True)
        if self.training:
            rows_BG = rows_BG * (torch.rand(rows_BG.shape, device=rows_BG.device) >= self.dropout)
        e_BGD = self.table(rows_BG)  # nn.EmbeddingBag would do, were its batches free in an export
        weight_BG = rows_BG != 0
        if self.score is not None:
            weight_BG = weight_BG * self.score(rows_BG)[..., 0].exp()
            e_BGD = e_BGD * weight_BG[..., None]
        # Where nothing is left of a text, nothing is said of it.
        mean_BD = e_BGD.sum(1) / weight_BG.sum(1, keepdim=True).clamp(min=1e-6)
        if self.root:
            mean_BD = mean_BD * all_B1.sqrt()
        logits_BC: Tensor = self.head(mean_BD)
        return logits_BC


def bag(
    vocabulary: int,
    classes: int,
    orders: Sequence[int] = (1, 2, 3),
    buckets: int = 65_536,
    dim: int = 32,
    dropout: float = 0.3,
    root: bool = False,
    weighted: bool = False,
) -> Bag:
    """Build a bag of n-grams."""
    return Bag(vocabulary, classes, orders, buckets, dim, dropout=dropout, root=root, weighted=weighted)
