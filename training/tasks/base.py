"""Task: the interface between the training loop and one kind of target.

Train walk: training.worker.training_worker -> [base.py]
Evaluation has two stages: each worker reduces its share of the held-out rows to eval outputs, a few numbers per row;
these are gathered from all workers, and every metric is computed from them alone. So metrics need no distributed code,
and a bootstrap resamples rows without another forward pass. Knows nothing of Ray.
"""
# Shapes: N rows of a split, B rows of a batch, K eval outputs of a row.

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

NetOutput = Tensor | tuple[Tensor, ...]


class Task(ABC):
    """One kind of target: its tensors, loss, metrics and output schema.

    Attributes:
        primary_metric: the validation metric that selects the best epoch; listed first in every table.
        higher_is_better: whether the primary metric improves upwards.
        output_names: names of the published net's output tensors.
        bootstrap_samples: resamples behind the primary metric's confidence interval.
    """

    primary_metric: str
    higher_is_better: bool = True
    output_names: tuple[str, ...] = ("logits",)
    bootstrap_samples: int = 1000

    def __init__(self, recipe: Recipe, dataset: Dataset, fitted: FittedPreprocessing) -> None:
        self.recipe, self.labels, self.preprocessing = recipe, dataset.labels, fitted
        loss = recipe.loss
        self._custom_loss: Callable[..., Tensor] | None = import_path(loss.source) if loss else None
        self._custom_loss_args: dict[str, Any] = dict(loss.args) if loss else {}

    def encode_rows(self, dataset: Dataset) -> EncodedRows:
        """Encode the rows of one split as tensors.

        Raises:
            UserError: the data set's targets do not fit the task.
        """
        inputs, lengths, _ = encode_inputs(self.preprocessing, dataset)
        if not isinstance(dataset.targets, Tensor):
            raise UserError(
                f"task {self.recipe.task} takes targets as one tensor; the data set's are "
                f"{'missing' if dataset.targets is None else f'a {type(dataset.targets).__name__}'}"
            )
        return EncodedRows(inputs, dataset.targets, lengths)

    @property
    def net_sizes(self) -> dict[str, int]:
        """Sizes that the data determines, by the name of the net's constructor argument."""
        sizes = {"num_classes": len(self.labels)}
        return sizes | ({"vocab_size": len(self.preprocessing.tokenizer)} if self.preprocessing.tokenizer else {})

    def output_layer(self, train: EncodedRows) -> nn.Module | None:
        """Build the layer that follows the recipe's net in the published net; None where the task needs none."""
        return None

    def loss(self, output: NetOutput, batch: EncodedRows) -> Tensor:
        """The training objective: a scalar, the mean over the batch's rows."""
        if self._custom_loss:
            return self._custom_loss(output, batch.targets, **self._custom_loss_args)
        return self.default_loss(output, batch)

    @abstractmethod
    def default_loss(self, output: NetOutput, batch: EncodedRows) -> Tensor:
        """The training objective where the recipe names no loss."""

    @abstractmethod
    def eval_outputs(self, net: nn.Module, output: NetOutput, batch: EncodedRows) -> Tensor:
        """Reduce each row to what its metrics need: float32 (B, K), K the same for every batch."""

    @abstractmethod
    def validation_metrics(self, eval_outputs_NK: Tensor) -> dict[str, float]:
        """Compute the metrics of an epoch, the primary one first; must be cheap."""

    def metrics(self, eval_outputs_NK: Tensor) -> dict[str, float]:
        """Compute all metrics, for the test split."""
        return self.validation_metrics(eval_outputs_NK)

    def per_class_metrics(self, eval_outputs_NK: Tensor) -> dict[str, dict[str, float]]:
        """Compute metrics by class, with `support`, the number of true instances; empty where there are no classes."""
        return {}

    def bootstrap_metric(self, eval_outputs_NK: Tensor) -> Callable[[Tensor], float]:
        """Return the primary metric as a function of row indices, int64 with repeats, for `bootstrap_interval`.

        A task overrides it where part of the computation does not depend on the sample.
        """
        return lambda rows: self.validation_metrics(eval_outputs_NK[rows])[self.primary_metric]

    @abstractmethod
    def output_schema(self) -> OutputSchema:
        """Describe the published net's outputs."""
