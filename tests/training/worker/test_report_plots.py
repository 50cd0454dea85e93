from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.bundle.manifest import ModelInfo
from training.data.preprocessing import EncodedRows
from training.schema import (
    BoxOutput,
    ClassOutput,
    ImageInput,
    ImageOutput,
    NumberOutput,
    SpanOutput,
    TableInput,
    TextInput,
    TextOutput,
)
from training.worker.report_plots import draw_plots
from training.zoo.nets.vae import VAE

IMAGE = ImageInput(height=8, width=8, mode="L")
TABLE = TableInput(features=("a",))
TEXT = TextInput(max_tokens=4)
HISTORY = {"loss.png", "metric.png"}


class ConstantNet(nn.Module):
    """Returns the same output for every row."""

    def __init__(self, row: list[Any]) -> None:
        super().__init__()
        self.row = torch.tensor(row)

    def forward(self, x: Tensor) -> Tensor:
        return self.row.expand(len(x), *self.row.shape)


def vae() -> VAE:
    return VAE(in_channels=1, height=8, width=8, latent_size=3, hidden_size=8).eval()


CASES: dict[str, tuple[Any, Any, nn.Module, list[list[float]], set[str]]] = {
    "classes of a table": (
        TABLE,
        ClassOutput(labels=("no", "yes")),
        nn.Identity(),
        [[0, 1.0, 0.0], [1, 2.0, 1.0]],
        {"confusion_matrix.png", "reliability.png"},
    ),
    "classes of images": (
        IMAGE,
        ClassOutput(labels=("no", "yes"), temperature=2.0),
        ConstantNet([1.0, 0.0]),
        [[0, 1.0, 0.0], [1, 2.0, 1.0]],
        {"confusion_matrix.png", "reliability.png", "samples.png"},
    ),
    "a number": (TABLE, NumberOutput(name="price"), nn.Identity(), [[1.0, 2.0], [2.0, 2.0]], {"predictions.png"}),
    "spans": (TEXT, SpanOutput(labels=("X",)), nn.Identity(), [[1.0, 4, 1, 0, 0]], {"per_class_f1.png"}),
    "text": (TEXT, TextOutput(), nn.Identity(), [[1.0, 4, 4]], set()),
    "boxes": (IMAGE, BoxOutput(labels=("x",)), ConstantNet([[1.0, 1, 4, 4, 0.9, 0]]), [[0.0] * 11], {"boxes.png"}),
    "generated images": (
        IMAGE,
        ImageOutput(latent_size=3),
        vae(),
        [[3.0, 2.0, 1.0]],
        {"reconstructions.png", "samples.png"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_output_has_its_plots(case: str) -> None:
    input_schema, output_schema, net, eval_outputs, expected = CASES[case]
    info = ModelInfo(
        name="small",
        task="tabular-classification",
        input_schema=input_schema,
        output_schema=output_schema,
        per_class_metrics={"X": {"f1": 0.5, "support": 2}} if case == "spans" else {},
    )
    worker: Any = SimpleNamespace(
        progress=SimpleNamespace(history=[{"epoch": 1, "loss": 0.5, "validation_accuracy": 0.8}]),
        task=SimpleNamespace(primary_metric="accuracy"),
        splits={"test": EncodedRows(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3))},
    )

    images = draw_plots(worker, net, info, torch.tensor(eval_outputs))

    assert images.keys() == HISTORY | expected
    assert all(content.startswith(b"\x89PNG") for content in images.values())
