"""Nets whose outputs can be computed by hand, as bundles of every kind that a pipeline may call."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.deployments.local_models import LocalModels
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import BoxOutput, ClassOutput, Feature, ImageInput, NumberOutput, TableInput, TextInput, TextOutput


class Linear(nn.Module):
    """Logits or numbers from known weights."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights.T


class BagOfTokens(nn.Module):
    """Text classifier: the sum of a pair of logits for each token."""

    def __init__(self, vocab_size: int, good: int) -> None:
        super().__init__()
        table = torch.zeros(vocab_size, 2)
        table[4:] = torch.tensor([0.5, 0.0])
        table[good] = torch.tensor([-2.0, 2.0])
        self.table = nn.Embedding.from_pretrained(table)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x).sum(1)


class NextToken(nn.Module):
    """Language model: the next token is fixed for each token."""

    def __init__(self, next_tokens: list[int]) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.eye(len(next_tokens))[next_tokens] * 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x)


class HalvesDetector(nn.Module):
    """Detector: an object in the left half and one in the right; none in a black image."""

    def forward(self, x: Tensor) -> Tensor:
        boxes = torch.tensor([[0.0, 0, 4, 8, 0.9, 0], [4.0, 0, 8, 8, 0.8, 1]])
        is_lit = (x.float().mean((1, 2, 3)) > 0).float()
        score = torch.tensor([0.0, 0, 0, 0, 1, 0])
        return boxes * (1 - score) + boxes * score * is_lit[:, None, None]


class BrightnessClassifier(nn.Module):
    """Image classifier: dark or light by the mean."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.float().mean((1, 2, 3)) / 255
        return torch.stack([torch.zeros_like(mean), 10 * (mean - 0.5)], 1)


TOKENIZER = Tokenizer.fit(TokenizerConfig(kind="words"), ["good bad fine"])
TABLE, AB = TableInput(features=("x", "y")), ClassOutput(labels=("a", "b"))
ROWS = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
TEXT, IMAGE = TextInput(max_tokens=8), ImageInput(height=8, width=8, mode="L")


def add_all_models(models: LocalModels) -> None:
    """Add a model of each kind, and some whose schemas do not match."""
    models.add("by-x", Linear([[0, 0], [1, 0]]), ROWS, TABLE, AB)
    models.add("by-y", Linear([[0, 0], [0, 1]]), ROWS, TABLE, AB)
    models.add("labels-reversed", Linear([[0, 1], [0, 0]]), ROWS, TABLE, ClassOutput(labels=("b", "a")))
    models.add("colors", Linear([[1, 0], [0, 1]]), ROWS, TABLE, ClassOutput(labels=("red", "green")))
    models.add("sum", Linear([[1, 1]]), ROWS, TABLE, NumberOutput(name="total"))
    models.add("double", Linear([[2, 2]]), ROWS, TABLE, NumberOutput(name="total"))
    models.add("other-features", Linear([[0, 0], [0, 1]]), ROWS, TableInput(features=("x", "z")), AB)
    stacked = TableInput(features=("y", Feature(name="label", categories=("a", "b"))))
    labeled = torch.tensor([[2.0, 1.0], [-1.0, 0.0]])
    models.add("stacked", Linear([[0, 0], [0, 9]]), labeled, stacked, ClassOutput(labels=("was a", "was b")))
    models.add("of-scores", Linear([[9, 0], [0, 9]]), ROWS, TableInput(features=("a", "b")), AB)
    ids = {word: TOKENIZER.encode(word).ids[0] for word in ("good", "bad", "fine")}
    tokens = torch.tensor([[4, 5, 6], [5, 5, 0]])
    options: Any = {"tokenizer": TOKENIZER, "example": "good fine"}
    models.add(
        "mood", BagOfTokens(len(TOKENIZER), ids["good"]), tokens, TEXT, ClassOutput(labels=("sad", "glad")), **options
    )
    models.add(
        "label-mood",
        BagOfTokens(len(TOKENIZER), ids["bad"]),
        tokens,
        TEXT,
        ClassOutput(labels=("good", "bad")),
        **options,
    )
    next_tokens = [ids["fine"]] * len(TOKENIZER)
    next_tokens[ids["fine"]] = ids["good"]
    models.add("writer", NextToken(next_tokens), tokens, TEXT, TextOutput(), **options)
    images = torch.full((2, 1, 8, 8), 200, dtype=torch.uint8)
    models.add("finder", HalvesDetector(), images, IMAGE, BoxOutput(labels=("left", "right")))
    small = ImageInput(height=4, width=4, mode="L")
    models.add(
        "light", BrightnessClassifier(), images[:, :, :4, :4].clone(), small, ClassOutput(labels=("dark", "light"))
    )
