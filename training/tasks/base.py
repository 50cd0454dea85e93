"""What the loop asks of a task.

A task judges a net by facts: a row of numbers for each held-out row, from which alone every score follows. Facts of
all workers are put together before scores are computed, and a confidence interval draws from them again and again.
"""
# Shapes: N rows of a part, B rows of a batch, K facts of a row, C classes.

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from training import prepare
from training.data import Dataset
from training.errors import Mistake
from training.prepare import Fitted, Rows
from training.recipe import Recipe, load_path
from training.words import Answer

Outputs = Tensor | tuple[Tensor, ...]


class Task(ABC):
    """One kind of target: its tensors, its loss, its scores and its answer.

    Attributes:
        metric: the score that chooses the epoch and stands first in every table.
        higher: whether more of it is better.
        outputs: names of the tensors that the published net gives.
    """

    metric: str
    higher: bool = True
    outputs: tuple[str, ...] = ("logits",)

    def __init__(self, recipe: Recipe, dataset: Dataset, fitted: Fitted) -> None:
        self.recipe, self.labels, self.fitted = recipe, dataset.labels, fitted
        chosen = recipe.loss
        self._chosen: Callable[..., Tensor] | None = load_path(chosen.source) if chosen else None
        self._chosen_args: dict[str, Any] = dict(chosen.args) if chosen else {}

    def rows(self, dataset: Dataset) -> Rows:
        """Turn one part of the data set into tensors."""
        inputs, lengths, _ = prepare.encode(self.fitted, dataset)
        if not isinstance(dataset.targets, Tensor):
            raise Mistake(f"task {self.recipe.task} takes a tensor of targets; the data set gives none")
        return Rows(inputs, dataset.targets, lengths)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes that come from the data, by the name of the net's argument that takes them."""
        found = {"classes": len(self.labels)}
        return found | ({"vocabulary": len(self.fitted.tokeniser)} if self.fitted.tokeniser else {})

    def back(self, train: Rows) -> nn.Module | None:
        """The published net's last layer, where the task needs one; takes what the recipe's net gives."""
        return None

    def loss(self, output: Outputs, batch: Rows) -> Tensor:
        """What is minimised: a mean over the batch's rows."""
        if self._chosen:
            return self._chosen(output, batch.targets, **self._chosen_args)
        return self.default_loss(output, batch)

    @abstractmethod
    def default_loss(self, output: Outputs, batch: Rows) -> Tensor:
        """What is minimised where the recipe names no loss."""

    @abstractmethod
    def facts(self, net: nn.Module, output: Outputs, batch: Rows) -> Tensor:
        """What is to be known of each row to score it; float32 (B, K)."""

    @abstractmethod
    def scores(self, facts_NK: Tensor) -> dict[str, float]:
        """The scores after an epoch, `metric` first; cheap."""

    def full_scores(self, facts_NK: Tensor) -> dict[str, float]:
        """All scores, for the held-out rows."""
        return self.scores(facts_NK)

    def by_class(self, facts_NK: Tensor) -> dict[str, dict[str, float]]:
        """Scores of each class by itself, where there are classes."""
        return {}

    @abstractmethod
    def answer(self) -> Answer:
        """What the published net's outputs mean."""
