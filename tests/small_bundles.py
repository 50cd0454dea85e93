"""Small real bundles: a table model, an image model, a text generator; and manifests changed as by a hostile author."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.bundle.manifest import MANIFEST_FILE, Manifest, ModelInfo, sha256
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import ClassOutput, ImageInput, TableInput, TextInput, TextOutput
from training.zoo.nets.mlp import mlp

TWO_FEATURES = ModelInfo(
    name="x",
    task="tabular-classification",
    input_schema=TableInput(features=("a", "b")),
    output_schema=ClassOutput(labels=("no", "yes")),
)
"""Of a table of two features and two classes, for nets that tests write themselves."""

FEATURES = ("length", "width", "height", "weight")


def save_table(folder: Path, name: str = "flowers", summary: str = "Classifies three species.") -> Manifest:
    torch.manual_seed(0)
    rows = torch.tensor([[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]])
    info = ModelInfo(
        name=name,
        task="tabular-classification",
        input_schema=TableInput(features=FEATURES),
        output_schema=ClassOutput(labels=("a", "b", "c")),
        summary=summary,
    )
    return save_bundle(folder, mlp(4, [8], 3), inputs=rows, info=info)


def save_image(folder: Path, name: str = "images", size: int = 8) -> Manifest:
    torch.manual_seed(0)
    rows = torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8)
    net = nn.Sequential(_Scale(), nn.Flatten(), nn.Linear(size * size, 2))
    info = ModelInfo(
        name=name,
        task="image-classification",
        input_schema=ImageInput(height=size, width=size, mode="L"),
        output_schema=ClassOutput(labels=("dark", "light")),
    )
    return save_bundle(folder, net, inputs=rows, info=info)


def save_text_generator(folder: Path, name: str) -> Manifest:
    torch.manual_seed(0)
    tokenizer = Tokenizer.fit(TokenizerConfig(kind="characters"), ["To be, or not to be: that is the question.\n"])
    net = nn.Sequential(nn.Embedding(len(tokenizer), 8), nn.Linear(8, len(tokenizer)))
    rows = torch.randint(4, len(tokenizer), (2, 8))
    info = ModelInfo(
        name=name, task="text-generation", input_schema=TextInput(max_tokens=64), output_schema=TextOutput()
    )
    return save_bundle(folder, net, inputs=rows, info=info, tokenizer=tokenizer, example="To be, or not")


def rewrite_manifest(folder: Path, **changes: Any) -> Manifest:
    """Change keys of a bundle's manifest, and make its checksums and its digest match, as a hostile author can."""
    manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    present = {path.name for path in folder.iterdir()}
    files = {name: sha256(folder / name) if name in present else digest for name, digest in manifest.files.items()}
    manifest = manifest.model_copy(update={"files": files, **changes})
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json())
    return manifest


class _Scale(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() / 255
