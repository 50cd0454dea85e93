"""Transformer encoder (Vaswani et al., 2017) for text classification, pre-norm (Xiong et al., 2020).

A small data set does not teach attention to combine characters, so a token's embedding may be summed with those of the
n-grams that begin at it, hashed as in fastText (Bojanowski et al., 2017).
"""
# Shapes: B rows, T tokens, W hidden size, N heads, D head dimension (W / N), K frequencies (W / 2), C classes.

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.zoo.nets.bag_of_ngrams import ngram_indices


class EncoderBlock(nn.Module):
    """Self-attention, then a feed-forward layer, each with pre-norm and a residual connection."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_BTW: Tensor, mask_B11T: Tensor) -> Tensor:
        """Attend to the tokens where the mask is true; shape (B, T, W) to the same."""
        qkv = self.qkv_proj(self.attention_norm(h_BTW)).unflatten(-1, (3, self.num_heads, -1))
        q_BNTD, k_BNTD, v_BNTD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended_BNTD = nn.functional.scaled_dot_product_attention(q_BNTD, k_BNTD, v_BNTD, attn_mask=mask_B11T)
        h_BTW = h_BTW + self.dropout(self.out_proj(attended_BNTD.transpose(1, 2).flatten(2)))
        out_BTW: Tensor = h_BTW + self.dropout(self.feed_forward(h_BTW))
        return out_BTW


class TransformerClassifier(nn.Module):
    """Embed, add positions, encode, average over the tokens, classify."""

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        hidden_size: int,
        num_heads: int,
        num_layers: int,
        ngram_orders: Sequence[int],
        num_buckets: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.vocab_size, self.ngram_orders, self.num_buckets = vocab_size, tuple(ngram_orders), num_buckets
        self.embedding = nn.Embedding(vocab_size + num_buckets, hidden_size, padding_idx=0)
        # Row 0, padding, stays zero.
        nn.init.normal_(self.embedding.weight[1:], std=hidden_size**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, num_classes)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Classify token ids int64 (B, T), 0 for padding; logits (B, C)."""
        mask_BT = x_BT != 0
        embeddings = [
            self.embedding(ngram_indices(x_BT, order, self.vocab_size, self.num_buckets)) for order in self.ngram_orders
        ]
        hidden_size = self.embedding.embedding_dim
        scale = math.sqrt(hidden_size / len(embeddings))
        h_BTW = self.dropout(sum(embeddings) * scale + _sinusoidal_positions(x_BT, hidden_size))
        for block in self.blocks:
            h_BTW = block(h_BTW, mask_BT[:, None, None, :])
        h_BTW = self.norm(h_BTW) * mask_BT[..., None]
        mean_BW = h_BTW.sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1)
        logits_BC: Tensor = self.head(self.dropout(mean_BW))
        return logits_BC


def _sinusoidal_positions(x_BT: Tensor, hidden_size: int) -> Tensor:
    """Sinusoidal position encoding of the paper, shape (T, W), defined for any length."""
    t_T1 = torch.arange(x_BT.shape[1], device=x_BT.device, dtype=torch.float32)[:, None]
    frequency_K = torch.exp(torch.arange(0, hidden_size, 2, device=x_BT.device) * (-math.log(10_000.0) / hidden_size))
    return torch.cat([torch.sin(t_T1 * frequency_K), torch.cos(t_T1 * frequency_K)], dim=-1)


def transformer_classifier(
    vocab_size: int,
    num_classes: int,
    hidden_size: int = 96,
    num_heads: int = 4,
    num_layers: int = 2,
    ngram_orders: Sequence[int] = (1, 2),
    num_buckets: int = 32_768,
    dropout: float = 0.3,
) -> TransformerClassifier:
    """Build a text classifier; with `ngram_orders` [1] it is the plain encoder, and `num_buckets` may be 0."""
    return TransformerClassifier(
        vocab_size, num_classes, hidden_size, num_heads, num_layers, ngram_orders, num_buckets, dropout
    )
