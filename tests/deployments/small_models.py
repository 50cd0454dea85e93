"""Nets whose answers can be worked out by hand, as bundles of every kind that a pipeline may call."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.deployments.local_models import LocalModels
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import BoxOutput, ClassOutput, Feature, ImageInput, NumberOutput, TableInput, TextInput, TextOutput


class Linear(nn.Module):
    """Logits or numbers by known weights, so that what comes out can be worked out by hand."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights.T


class Bag(nn.Module):
    """Texts: the sum of a logit pair for each token."""

    def __init__(self, vocabulary: int, good: int) -> None:
        super().__init__()
        table = torch.zeros(vocabulary, 2)
        table[4:] = torch.tensor([0.5, 0.0])
        table[good] = torch.tensor([-2.0, 2.0])
        self.table = nn.Embedding.from_pretrained(table)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x).sum(1)


class After(nn.Module):
    """Language: the next token is known for each."""

    def __init__(self, following: list[int]) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.eye(len(following))[following] * 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x)


class Halves(nn.Module):
    """A detector that sees a thing in the left half, and one in the right; none in a picture that is black."""

    def forward(self, x: Tensor) -> Tensor:
        boxes = torch.tensor([[0.0, 0, 4, 8, 0.9, 0], [4.0, 0, 8, 8, 0.8, 1]])
        seen = (x.float().mean((1, 2, 3)) > 0).float()
        score = torch.tensor([0.0, 0, 0, 0, 1, 0])
        return boxes * (1 - score) + boxes * score * seen[:, None, None]


class Bright(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.float().mean((1, 2, 3)) / 255
        return torch.stack([torch.zeros_like(mean), 10 * (mean - 0.5)], 1)


TOKENISER = Tokenizer.fit(TokenizerConfig(kind="words"), ["good bad fine"])
TABLE, AB = TableInput(features=("x", "y")), ClassOutput(labels=("a", "b"))
ROWS = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
TEXT, IMAGE = TextInput(max_tokens=8), ImageInput(height=8, width=8, mode="L")


def add_all(models: LocalModels) -> None:
    """Make one bundle of each kind, and some that do not go together."""
    models.add("by-x", Linear([[0, 0], [1, 0]]), ROWS, TABLE, AB)
    models.add("by-y", Linear([[0, 0], [0, 1]]), ROWS, TABLE, AB)
    models.add("turned", Linear([[0, 1], [0, 0]]), ROWS, TABLE, ClassOutput(labels=("b", "a")))
    models.add("colours", Linear([[1, 0], [0, 1]]), ROWS, TABLE, ClassOutput(labels=("red", "green")))
    models.add("sum", Linear([[1, 1]]), ROWS, TABLE, NumberOutput(name="total"))
    models.add("double", Linear([[2, 2]]), ROWS, TABLE, NumberOutput(name="total"))
    models.add("other-rows", Linear([[0, 0], [0, 1]]), ROWS, TableInput(features=("x", "z")), AB)
    stacked = TableInput(features=("y", Feature(name="label", categories=("a", "b"))))
    labelled = torch.tensor([[2.0, 1.0], [-1.0, 0.0]])
    models.add("stacked", Linear([[0, 0], [0, 9]]), labelled, stacked, ClassOutput(labels=("was a", "was b")))
    models.add("of-scores", Linear([[9, 0], [0, 9]]), ROWS, TableInput(features=("a", "b")), AB)
    ids = {word: TOKENISER.encode(word).ids[0] for word in ("good", "bad", "fine")}
    tokens = torch.tensor([[4, 5, 6], [5, 5, 0]])
    more: Any = {"tokeniser": TOKENISER, "example": "good fine"}
    models.add("mood", Bag(len(TOKENISER), ids["good"]), tokens, TEXT, ClassOutput(labels=("sad", "glad")), **more)
    models.add("label-mood", Bag(len(TOKENISER), ids["bad"]), tokens, TEXT, ClassOutput(labels=("good", "bad")), **more)
    following = [ids["fine"]] * len(TOKENISER)
    following[ids["fine"]] = ids["good"]
    models.add("writer", After(following), tokens, TEXT, TextOutput(), **more)
    picture = torch.full((2, 1, 8, 8), 200, dtype=torch.uint8)
    models.add("finder", Halves(), picture, IMAGE, BoxOutput(labels=("left", "right")))
    small = ImageInput(height=4, width=4, mode="L")
    models.add("light", Bright(), picture[:, :, :4, :4].clone(), small, ClassOutput(labels=("dark", "light")))
