"""Decoder-only Transformer, GPT-2 in small (Radford, Wu, Child, Luan, Amodei, Sutskever, 2019).

Pre-norm blocks of causal self-attention (Vaswani et al., 2017) and a GELU perceptron; learned positions; the output
layer is the transposed token table (Press, Wolf, 2017).
"""
# Shapes: B rows, T tokens, C width, H heads, D width of a head, V vocabulary.

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention


class GPT(nn.Module):
    """Logits of each next token, from the tokens up to it."""

    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int, dropout: float) -> None:
        """Take rows of at most `context` tokens; `width` must divide over `heads`."""
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.apply(_start)
        for name, weight in self.named_parameters():
            # Each block adds twice to the residual stream; so its variance at the start does not grow with depth.
            if name.endswith("out.weight"):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers))

    def forward(self, x_BT: Tensor) -> Tensor:
        """Take token ids, int64 (B, T), and give logits float32 (B, T, V).

        Padding stands at the end of a row, where no earlier token can look: it needs no mask.
        """
        position_T = torch.arange(x_BT.shape[1], device=x_BT.device)
        h_BTC = self.dropout(self.token(x_BT) + self.position(position_T))
        for block in self.blocks:
            h_BTC = block(h_BTC)
        return linear(self.norm(h_BTC), self.token.weight)


class Block(nn.Module):
    """What each token reads from those before it, then a perceptron on each; both added to the residual stream."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron = Perceptron(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_BTC: Tensor) -> Tensor:
        """Shape (B, T, C) to the same shape."""
        h_BTC = h_BTC + self.dropout(self.attention(self.attention_norm(h_BTC)))
        out_BTC: Tensor = h_BTC + self.dropout(self.perceptron(self.perceptron_norm(h_BTC)))
        return out_BTC


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, h_BTC: Tensor) -> Tensor:
        """Shape (B, T, C) to the same shape."""
        query, key, value = (
            part_BTC.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, T, D)
            for part_BTC in self.read(h_BTC).chunk(3, dim=2)
        )
        read_BHTD = scaled_dot_product_attention(query, key, value, is_causal=True)
        out_BTC: Tensor = self.out(read_BHTD.transpose(1, 2).flatten(2))
        return out_BTC


class Perceptron(nn.Module):
    """One hidden layer, four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, h_BTC: Tensor) -> Tensor:
        """Shape (B, T, C) to the same shape."""
        out_BTC: Tensor = self.out(gelu(self.hidden(h_BTC), approximate="tanh"))
        return out_BTC


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def gpt(vocabulary: int, context: int, width: int = 128, layers: int = 4, heads: int = 4, dropout: float = 0.0) -> GPT:
    """Build a GPT; input int64 (B, T <= context) token ids, output logits float32 (B, T, vocabulary)."""
    return GPT(vocabulary, context, width, layers, heads, dropout)
