"""Tasks on data sets of a few rows, as a worker makes them; no net is trained."""

from typing import Any

import torch

from training import tasks
from training.data.dataset import Dataset
from training.data.preprocessing import fit_preprocessing
from training.recipe.spec import Data, Loss, Net, Recipe, TokenizerConfig
from training.schema import TableInput

TWO_FEATURES = TableInput(features=("a", "b"))


def make_task(
    name: Any,
    dataset: Dataset,
    *,
    net_args: dict[str, Any] | None = None,
    tokenizer: TokenizerConfig | None = None,
    loss: Loss | None = None,
) -> tasks.Task:
    recipe = Recipe(
        name="small",
        task=name,
        data=Data(source="tests.training.tasks.small_tasks:make_task"),
        net=Net(source="torch.nn:Identity", args=net_args or {}),
        tokenizer=tokenizer,
        loss=loss,
    )
    return tasks.make_task(recipe, dataset, fit_preprocessing(recipe, dataset, torch.arange(len(dataset))))


def build_table(targets: torch.Tensor, labels: tuple[str, ...]) -> Dataset:
    return Dataset(inputs=torch.zeros(len(targets), 2), targets=targets, labels=labels, input_schema=TWO_FEATURES)
