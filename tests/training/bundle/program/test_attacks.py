"""No string of a bundle becomes code, an import, a process or a foreign file, whatever it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training.bundle.program import attack
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import ClassOutput, ImageInput, ImageOutput, TableInput, TextInput
from training.zoo.nets.vae import VAE

ROOT = Path(__file__).parents[4]


class Everything(nn.Module):
    """Uses every kind of argument: sizes, datatypes, devices, branches, constants, floats that JSON lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("mask", torch.ones(2, dtype=torch.bool), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x - self.mean).masked_fill(~self.mask, float("-inf"))
        with torch.no_grad():
            z = y.reshape(x.shape[0] * 2).clone().to(torch.float64)
        y = y + torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.clone(), (x,))
        steps = torch.arange(x.shape[0], device=x.device)[:, None] + torch.tensor([1, 2])
        first, second = torch.cat([z.reshape(-1, 2), steps], 1).float().split([2, 2], 1)
        return y + first + second.index_select(1, torch.tensor([1, 0])) + torch.full((x.shape[0], 2), 0.5)


class Text(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(vocab_size, 4), nn.LSTM(4, 2, batch_first=True)

    def forward(self, x_BT: Tensor) -> Tensor:
        return self.lstm(self.embedding(x_BT))[0].sum(1)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A table classifier, a text classifier with its tokenizer, an image generator with its decoder."""
    folder = tmp_path_factory.mktemp("bundles")
    torch.manual_seed(0)
    labels = ClassOutput(labels=("no", "yes"))
    table = ModelInfo(
        name="table",
        task="tabular-classification",
        input_schema=TableInput(features=("a", "b")),
        output_schema=labels,
    )
    save_bundle(folder / "table", Everything(), inputs=torch.randn(2, 2), info=table)
    tokenizer = Tokenizer.fit(TokenizerConfig(kind="words"), ["good bad fine"])
    text = ModelInfo(
        name="text", task="text-classification", input_schema=TextInput(max_tokens=8), output_schema=labels
    )
    tokens, example = torch.tensor([[4, 5, 6], [5, 5, 0]]), "good fine"
    net = Text(len(tokenizer))
    save_bundle(folder / "text", net, inputs=tokens, info=text, tokenizer=tokenizer, example=example)
    image = ModelInfo(
        name="image",
        task="image-generation",
        input_schema=ImageInput(height=4, width=4, mode="L"),
        output_schema=ImageOutput(latent_size=2),
    )
    vae = VAE(1, 4, 4, 2, 4)
    pixels, names = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), ("reconstruction", "mean", "log_variance")
    save_bundle(folder / "image", vae, inputs=pixels, info=image, outputs=names, decoder=vae.decode)
    return [folder / "table", folder / "text", folder / "image"]


def test_no_string_of_a_bundle_runs_code_or_reaches_out(bundles: list[Path], tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    result = subprocess.run(
        [sys.executable, attack.__file__, str(marker), *map(str, bundles)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout)
    assert report["events"] == {}
    assert report["errors"] == {}
    assert not marker.exists()
    assert report["attempts"] > 1000
    assert report["refused"] > report["attempts"] / 2
