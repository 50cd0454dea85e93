"""Bundles of compute-bound nets with random weights: compute.py serves them, precision.py runs their variants."""
# Shapes: B rows, K channels, H height, W width.

from pathlib import Path

import torch
from torch import Tensor, nn

from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import ClassOutput, ImageInput, InputSchema, TextInput
from training.zoo.nets.cnn import cnn
from training.zoo.nets.resnet import BasicBlock
from training.zoo.nets.transformer import transformer_classifier

NET_NAMES = ("cnn", "resnet18", "transformer")
SEQ_LEN, VOCAB_SIZE = 256, 8000


class ScalePixels(nn.Module):
    """Scale uint8 pixels, as requests have them, to float32 in 0..1 before the net."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map uint8 (B, K, H, W) to the net's output."""
        y: Tensor = self.net(x.float() / 255)
        return y


def resnet18(num_classes: int = 1000) -> nn.Module:
    """ResNet-18 (He, Zhang, Ren, Sun, 2016) for images of 3x224x224, with shortcuts without weights (option A)."""
    stages: list[nn.Module] = []
    in_channels = 64
    for channels in (64, 128, 256, 512):
        stride = 1 if in_channels == channels else 2
        stages += [BasicBlock(in_channels, channels, stride), BasicBlock(channels, channels)]
        in_channels = channels
    stem = [nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes)]
    return ScalePixels(nn.Sequential(*stem, nn.MaxPool2d(3, stride=2, padding=1), *stages, *head))


def save_benchmark_bundle(name: str, folder: Path) -> Tensor:
    """Save the bundle of one net; returns two input rows."""
    torch.manual_seed(0)
    num_classes, tokenizer = 10, None
    if name == "transformer":
        # Only the net is measured, so the tokenizer covers just the example.
        tokenizer = Tokenizer.fit(TokenizerConfig(kind="characters", max_tokens=SEQ_LEN), ["abc"])
        net: nn.Module = transformer_classifier(
            VOCAB_SIZE, num_classes, hidden_size=256, num_layers=6, ngram_orders=(1,), num_buckets=0
        )
        x = torch.randint(1, len(tokenizer), (2, SEQ_LEN))
        input_schema: InputSchema = TextInput(max_tokens=SEQ_LEN)
    else:
        channels, size = (1, 28) if name == "cnn" else (3, 224)
        num_classes = 10 if name == "cnn" else 1000
        net = ScalePixels(cnn(channels, num_classes)) if name == "cnn" else resnet18(num_classes)
        x = torch.randint(0, 256, (2, channels, size, size), dtype=torch.uint8)
        input_schema = ImageInput(height=size, width=size, mode="L" if channels == 1 else "RGB")
    info = ModelInfo(
        name=name,
        task="text-classification" if tokenizer else "image-classification",
        input_schema=input_schema,
        output_schema=ClassOutput(labels=tuple(map(str, range(num_classes)))),
        # No variant is refused for its error: outputs of random weights mean nothing, and the table has the error.
        tolerance=1e6,
    )
    save_bundle(folder, net, inputs=x, info=info, tokenizer=tokenizer, example="abc" if tokenizer else None)
    return x
