"""What the loop asks of a task.

A task judges a net by facts: a row of numbers for each held-out row, from which alone every score follows. Facts of
all workers are put together before scores are computed, and a confidence interval draws from them again and again.
"""
# Shapes: N rows of a part, B rows of a batch, K facts of a row, C classes.

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from training.data.dataset import Dataset
from training.data.preprocessing import EncodedRows, FittedPreprocessing, encode_inputs
from training.errors import UserError
from training.recipe.load import import_path
from training.recipe.spec import Recipe
from training.schema import OutputSchema

Outputs = Tensor | tuple[Tensor, ...]


class Task(ABC):
    """One kind of target: its tensors, its loss, its scores and its answer.

    Attributes:
        metric: the score that chooses the epoch and stands first in every table.
        higher: whether more of it is better.
        outputs: names of the tensors that the published net gives.
    """

    metric: str
    higher_is_better: bool = True
    outputs: tuple[str, ...] = ("logits",)

    def __init__(self, recipe: Recipe, dataset: Dataset, fitted: FittedPreprocessing) -> None:
        self.recipe, self.labels, self.preprocessing = recipe, dataset.labels, fitted
        chosen = recipe.loss
        self._chosen: Callable[..., Tensor] | None = import_path(chosen.source) if chosen else None
        self._chosen_args: dict[str, Any] = dict(chosen.args) if chosen else {}

    def encode_rows(self, dataset: Dataset) -> EncodedRows:
        """Turn one part of the data set into tensors."""
        inputs, lengths, _ = encode_inputs(self.preprocessing, dataset)
        if not isinstance(dataset.targets, Tensor):
            raise UserError(f"task {self.recipe.task} takes a tensor of targets; the data set gives none")
        return EncodedRows(inputs, dataset.targets, lengths)

    @property
    def net_sizes(self) -> dict[str, int]:
        """Sizes that come from the data, by the name of the net's argument that takes them."""
        found = {"classes": len(self.labels)}
        return found | ({"vocabulary": len(self.preprocessing.tokenizer)} if self.preprocessing.tokenizer else {})

    def output_layer(self, train: EncodedRows) -> nn.Module | None:
        """The published net's last layer, where the task needs one; takes what the recipe's net gives."""
        return None

    def loss(self, output: Outputs, batch: EncodedRows) -> Tensor:
        """What is minimised: a mean over the batch's rows."""
        if self._chosen:
            return self._chosen(output, batch.targets, **self._chosen_args)
        return self.default_loss(output, batch)

    @abstractmethod
    def default_loss(self, output: Outputs, batch: EncodedRows) -> Tensor:
        """What is minimised where the recipe names no loss."""

    @abstractmethod
    def eval_outputs(self, net: nn.Module, output: Outputs, batch: EncodedRows) -> Tensor:
        """What is to be known of each row to score it; float32 (B, K)."""

    @abstractmethod
    def validation_metrics(self, facts_NK: Tensor) -> dict[str, float]:
        """The scores after an epoch, `metric` first; cheap."""

    def metrics(self, facts_NK: Tensor) -> dict[str, float]:
        """All scores, for the held-out rows."""
        return self.validation_metrics(facts_NK)

    def per_class_metrics(self, facts_NK: Tensor) -> dict[str, dict[str, float]]:
        """Scores of each class by itself, where there are classes."""
        return {}

    @abstractmethod
    def output_schema(self) -> OutputSchema:
        """What the published net's outputs mean."""
