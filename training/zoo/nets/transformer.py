"""Transformer encoder (Vaswani et al., 2017) that classifies texts, normalised before each part (Xiong et al., 2020).

Small data do not teach attention to put characters together, so a token's embedding may be given those of the n-grams
that begin at it, hashed as in fastText (Bojanowski et al., 2017).
"""
# Shapes: B rows, T tokens, W width, N heads, K width of a head (W / N), C classes.

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.zoo.nets.bag import gram_rows


class Block(nn.Module):
    """Self-attention, then two linear layers; each reads a normalised copy and adds to what it read."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_BTW: Tensor, mask_B11T: Tensor) -> Tensor:
        """Let every token look at those where the mask is true; shape (B, T, W) to the same."""
        both = self.query_key_value(self.attention_norm(h_BTW)).unflatten(-1, (3, self.heads, -1))
        q_BNTK, k_BNTK, v_BNTK = both.permute(2, 0, 3, 1, 4).unbind(0)
        seen_BNTK = nn.functional.scaled_dot_product_attention(q_BNTK, k_BNTK, v_BNTK, attn_mask=mask_B11T)
        h_BTW = h_BTW + self.dropout(self.joined(seen_BNTK.transpose(1, 2).flatten(2)))
        added_BTW: Tensor = h_BTW + self.dropout(self.mlp(h_BTW))
        return added_BTW


class TransformerClassifier(nn.Module):
    """Embed, add positions, encode, average over the tokens, classify."""

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        width: int,
        heads: int,
        layers: int,
        orders: Sequence[int],
        buckets: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.vocabulary, self.orders, self.buckets = vocabulary, tuple(orders), buckets
        self.table = nn.Embedding(vocabulary + buckets, width, padding_idx=0)
        nn.init.normal_(self.table.weight[1:], std=width**-0.5)  # the row of padding stays zero
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Classify token ids int64 (B, T), 0 for padding; logits (B, C)."""
        mask_BT = x_BT != 0
        grams = [self.table(gram_rows(x_BT, order, self.vocabulary, self.buckets)) for order in self.orders]
        width = self.table.embedding_dim
        h_BTW = self.dropout(sum(grams) * math.sqrt(width / len(grams)) + _positions(x_BT, width))
        for block in self.blocks:
            h_BTW = block(h_BTW, mask_BT[:, None, None, :])
        h_BTW = self.norm(h_BTW) * mask_BT[..., None]
        mean_BW = h_BTW.sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1)
        logits_BC: Tensor = self.head(self.dropout(mean_BW))
        return logits_BC


def _positions(x_BT: Tensor, width: int) -> Tensor:
    """Make the paper's sines and cosines of each position, shape (T, W): no length is too long for them."""
    t_T1 = torch.arange(x_BT.shape[1], device=x_BT.device, dtype=torch.float32)[:, None]
    rates_K = torch.exp(torch.arange(0, width, 2, device=x_BT.device) * (-math.log(10_000.0) / width))
    return torch.cat([torch.sin(t_T1 * rates_K), torch.cos(t_T1 * rates_K)], dim=-1)


def transformer_classifier(
    vocabulary: int,
    classes: int,
    width: int = 96,
    heads: int = 4,
    layers: int = 2,
    orders: Sequence[int] = (1, 2),
    buckets: int = 32_768,
    dropout: float = 0.3,
) -> TransformerClassifier:
    """Build a text classifier; with `orders` [1] it is the plain encoder, and `buckets` may be 0."""
    return TransformerClassifier(vocabulary, classes, width, heads, layers, orders, buckets, dropout)
