"""Nets that use what those of the zoo do not: control flow, buffers of each kind, views, casts, dicts as outputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x_BT: Tensor) -> Tensor:
        y: Tensor = self.head(self.embedding(x_BT))
        return y


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.arange(4.0))
        self.register_buffer("mask", torch.tensor([True, False, True, True]), persistent=False)
        self.register_buffer("shift", torch.ones(4, dtype=torch.bfloat16))
        self.register_buffer("empty", torch.zeros(0, 4))
        self.table = torch.arange(8.0).reshape(2, 4)
        self.linear = nn.Linear(4, 4)
        self.linear.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x - self.mean) * self.mask + self.shift.float() + self.empty.sum()
        return y + self.table[1] + torch.tensor([1.0, 2.0, 3.0, 4.0])


class SharedStorage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        block = torch.randn(4, 4)
        self.register_buffer("rows", block[:2])
        self.register_buffer("block", block)
        self.register_buffer("transposed", torch.randn(4, 4).t())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.block + (x @ self.rows.t()).sum(1, keepdim=True) + x @ self.transposed


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        def if_true(x: Tensor) -> Tensor:
            return self.linear(x).sin()

        def if_false(x: Tensor) -> Tensor:
            return x.clone()

        y: Tensor = torch.cond(x.sum() > 0, if_true, if_false, (x,))
        return y


class Sizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape
        y = x.reshape(rows * 2, columns // 2)
        z = torch.full((rows, columns), torch.sym_float(rows)) + torch.arange(rows)[:, None] / torch.sym_max(rows, 2)
        padded = F.pad(y, (0, 2 * columns - columns // 2))
        return z + padded.new_zeros(rows, columns) + padded[:rows, :columns] + rows**2


class Gradients(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x.reshape(x.shape[0] * 4).clone()
        with torch.autocast("cpu", torch.bfloat16):
            z = x @ torch.ones(4, 4)
        return z.float() + y.reshape(-1, 4)


class Views(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.flip(1)[:, ::2].repeat_interleave(2, 1)
        y[:, 1:3] = x[..., -2:].transpose(0, 1).contiguous().t()
        y[:, 0].add_(1)
        first, rest = y.split([1, 3], 1)
        return torch.cat([rest, first], 1).unfold(1, 2, 1).sum(-1).expand(2, -1, -1).permute(1, 0, 2).flatten(1)


class Casts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.to(torch.float64).round().to(torch.int32).clamp(-3, 3)
        z = torch.where(y > 0, x, float("-inf")).softmax(1).nan_to_num(0.5)
        return (z + y.bool().half() + torch.view_as_real(torch.fft.rfft(x))[:, :1, 0]).to(torch.bfloat16).float()


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, 4, mode="mean")
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x_BT: Tensor) -> Tensor:
        y = self.norm(self.bag(x_BT))
        return torch.einsum("bi,bj->bij", y, y).topk(2, -1).values.cumsum(1) + x_BT[:, :1, None]


class Recurrent(nn.Module):
    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.net = getattr(nn, kind)(4, 3, batch_first=True, bidirectional=True, num_layers=2, **options)

    def forward(self, x_BTF: Tensor) -> Tensor:
        y, state = self.net(x_BTF)
        state = state[0] if isinstance(state, tuple) else state
        return torch.cat([y[:, -1], state[0], state.mean(0)], 1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        y: Tensor = self.encoder(x_BTC, is_causal=True, mask=nn.Transformer.generate_square_subsequent_mask(5))
        return y


class Structured(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"logits": x + 1, "parts": (x[:, :1], [x[:, 1:], {"b": x.sum(1), "a": None}]), "rows": 3, "x": x}


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 16),
            nn.Unflatten(1, (4, 2, 2)),
            nn.ConvTranspose2d(4, 3, 2, 2),
            nn.GroupNorm(3, 3),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.PReLU(),
            nn.AdaptiveAvgPool2d(3),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class Uninitialized(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.empty(x.shape[0], 4).fill_(2.0) * x + torch.empty_like(x).zero_() + x.new_empty(4).fill_(1)


def _floats() -> Tensor:
    return torch.randn(3, 4)


def _tokens() -> Tensor:
    return torch.randint(0, 10, (3, 5))


def _series() -> Tensor:
    return torch.randn(3, 5, 4)


# Net, rows, maximum number of time steps.
UNUSUAL_NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], int | None]] = {
    "tied weights": (TiedWeights, _tokens, 50),
    "buffers": (Buffers, _floats, None),
    "shared storage": (SharedStorage, _floats, None),
    "branch": (Branch, _floats, None),
    "sizes": (Sizes, _floats, None),
    "gradients": (Gradients, _floats, None),
    "views": (Views, _floats, None),
    "casts": (Casts, _floats, None),
    "mixed": (Mixed, _tokens, None),
    "lstm": (lambda: Recurrent("LSTM"), _series, 50),
    "lstm with projection": (lambda: Recurrent("LSTM", proj_size=2), _series, None),
    "gru": (lambda: Recurrent("GRU"), _series, 50),
    "rnn": (lambda: Recurrent("RNN", nonlinearity="relu"), _series, 50),
    "attention": (Attention, lambda: torch.randn(3, 5, 8), None),
    "structured": (Structured, _floats, None),
    "upsampling": (Upsampling, _floats, None),
    "uninitialized": (Uninitialized, _floats, None),
}
