"""Decoder-only Transformer, a small GPT-2 (Radford, Wu, Child, Luan, Amodei, Sutskever, 2019).

Pre-norm blocks of causal self-attention (Vaswani et al., 2017) and a GELU feed-forward layer; learned positions; the
output layer is the transposed token embedding (Press, Wolf, 2017).
"""
# Shapes: B rows, T tokens, C hidden size, H heads, D head dimension (C / H), V vocabulary size.

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention


class GPT(nn.Module):
    """Next-token logits at each token.

    Args:
        vocab_size: V.
        context_length: maximum number of tokens of a row.
        hidden_size: C, a multiple of num_heads.
        num_layers: number of blocks.
        num_heads: H.
        dropout: of the embeddings and of each residual branch.
    """

    def __init__(
        self, vocab_size: int, context_length: int, hidden_size: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, hidden_size)
        self.position_embedding = nn.Embedding(context_length, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.apply(_init_weights)
        for name, weight in self.named_parameters():
            # Each block adds to the residual stream twice: the scale keeps its initial variance independent of depth.
            if name.endswith("out_proj.weight"):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * num_layers))

    def forward(self, x_BT: Tensor) -> Tensor:
        """Map token ids, int64 (B, T), to logits float32 (B, T, V).

        Padding comes last in a row, where causal attention hides it from every earlier token: it needs no mask.
        """
        position_T = torch.arange(x_BT.shape[1], device=x_BT.device)
        h_BTC = self.dropout(self.token_embedding(x_BT) + self.position_embedding(position_T))
        for block in self.blocks:
            h_BTC = block(h_BTC)
        return linear(self.norm(h_BTC), self.token_embedding.weight)


class Block(nn.Module):
    """Causal self-attention, then a feed-forward layer, each added to the residual stream."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = CausalSelfAttention(hidden_size, num_heads)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = FeedForward(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_BTC: Tensor) -> Tensor:
        """Shape (B, T, C) to the same shape."""
        h_BTC = h_BTC + self.dropout(self.attention(self.attention_norm(h_BTC)))
        out_BTC: Tensor = h_BTC + self.dropout(self.feed_forward(self.feed_forward_norm(h_BTC)))
        return out_BTC


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which a token attends to itself and to earlier tokens."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, h_BTC: Tensor) -> Tensor:
        """Shape (B, T, C) to the same shape."""
        q_BHTD, k_BHTD, v_BHTD = (
            chunk_BTC.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for chunk_BTC in self.qkv_proj(h_BTC).chunk(3, dim=2)
        )
        attended_BHTD = scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        out_BTC: Tensor = self.out_proj(attended_BHTD.transpose(1, 2).flatten(2))
        return out_BTC


class FeedForward(nn.Module):
    """One hidden layer, four times as wide."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(hidden_size, 4 * hidden_size)
        self.out_proj = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, h_BTC: Tensor) -> Tensor:
        """Shape (B, T, C) to the same shape."""
        out_BTC: Tensor = self.out_proj(gelu(self.in_proj(h_BTC), approximate="tanh"))
        return out_BTC


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def gpt(
    vocab_size: int,
    context_length: int,
    hidden_size: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    dropout: float = 0.0,
) -> GPT:
    """Build a GPT; input int64 (B, T <= context_length) token ids, output logits float32 (B, T, vocab_size)."""
    return GPT(vocab_size, context_length, hidden_size, num_layers, num_heads, dropout)
