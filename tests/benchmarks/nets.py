"""Nets whose forward pass is work, with random weights, as bundles: compute.py serves them, precision.py forms them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import ClassOutput, ImageInput, InputSchema, TextInput
from training.zoo.nets.cnn import cnn
from training.zoo.nets.resnet import Residual
from training.zoo.nets.transformer import transformer_classifier

NAMES = ("cnn", "resnet18", "transformer")
TOKENS, VOCABULARY = 256, 8000


class Bytes(nn.Module):
    """Pictures as bytes, as callers send them, for a net of floats."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x.float() / 255)
        return y


def resnet18(classes: int = 1000) -> nn.Module:
    """The paper's net of 18 layers for 3 x 224 x 224, with its shortcuts without weights (option A)."""
    stages: list[nn.Module] = []
    wide = 64
    for narrow in (64, 128, 256, 512):
        stages += [Residual(wide, narrow, stride=1 if wide == narrow else 2), Residual(narrow, narrow)]
        wide = narrow
    stem = [nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
    return Bytes(nn.Sequential(*stem, nn.MaxPool2d(3, stride=2, padding=1), *stages, *head))


def save(name: str, folder: Path) -> Tensor:
    """Write one net's bundle; returns two rows that it takes."""
    torch.manual_seed(0)
    labels, words, tokeniser = 10, None, None
    if name == "transformer":
        # The net alone is measured: its tokeniser need know no more than the example.
        tokeniser = Tokenizer.fit(TokenizerConfig(kind="characters", max_tokens=TOKENS), ["abc"])
        net: nn.Module = transformer_classifier(VOCABULARY, labels, 256, layers=6, orders=(1,), buckets=0)
        x = torch.randint(1, len(tokeniser), (2, TOKENS))
        words: InputSchema = TextInput(max_tokens=TOKENS)
    else:
        channels, size = (1, 28) if name == "cnn" else (3, 224)
        labels = 10 if name == "cnn" else 1000
        net = Bytes(cnn(channels, labels)) if name == "cnn" else resnet18(labels)
        x = torch.randint(0, 256, (2, channels, size, size), dtype=torch.uint8)
        words = ImageInput(height=size, width=size, mode="L" if channels == 1 else "RGB")
    about = ModelInfo(
        name=name,
        task="text-classification" if tokeniser else "image-classification",
        input_schema=words,
        output_schema=ClassOutput(labels=tuple(map(str, range(labels)))),
        # Nothing is refused here for its answers, which mean nothing; the distance stands in the table.
        tolerance=1e6,
    )
    save_bundle(folder, net, inputs=x, info=about, tokenizer=tokeniser, example="abc" if tokeniser else None)
    return x
