"""Small real bundles: a table model and an image model."""

from pathlib import Path

import torch
from torch import nn

from training.bundle.manifest import Manifest, ModelInfo
from training.bundle.save import save_bundle
from training.schema import ClassOutput, ImageInput, TableInput
from training.zoo.nets.mlp import mlp

FEATURES = ("length", "width", "height", "weight")


def save_table(folder: Path, name: str = "flowers") -> Manifest:
    torch.manual_seed(0)
    rows = torch.tensor([[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]])
    info = ModelInfo(
        name=name,
        task="tabular-classification",
        input_schema=TableInput(features=FEATURES),
        output_schema=ClassOutput(labels=("a", "b", "c")),
        summary="Classifies three species.",
    )
    return save_bundle(folder, mlp(4, [8], 3), inputs=rows, info=info)


def save_image(folder: Path, name: str = "images") -> Manifest:
    torch.manual_seed(0)
    rows = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    net = nn.Sequential(_Scale(), nn.Flatten(), nn.Linear(64, 2))
    info = ModelInfo(
        name=name,
        task="image-classification",
        input_schema=ImageInput(height=8, width=8, mode="L"),
        output_schema=ClassOutput(labels=("dark", "light")),
    )
    return save_bundle(folder, net, inputs=rows, info=info)


class _Scale(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() / 255
