"""What holds for every task."""

import pytest
import torch

from tests.training.tasks.small_tasks import TWO_FEATURES, build_table, make_task
from training import tasks
from training.data.dataset import Dataset
from training.errors import UserError
from training.recipe.spec import Data, Net, Recipe, TokenizerConfig

# Eval outputs of four rows each, in the layout of `Task.eval_outputs`.
EVAL_OUTPUTS = {
    "tabular-classification": [[0, 2.0, 1.0], [1, 0.5, 1.0], [1, 3.0, 1.0], [0, 1.0, 0.0]],
    "tabular-regression": [[1.0, 1.5], [2.0, 2.5], [3.0, 2.0], [4.0, 4.0]],
    "time-series-forecasting": [[1.0, 1.5], [2.0, 2.5], [3.0, 2.0], [4.0, 4.0]],
    "token-classification": [[3.0, 4, 1, 0, 1], [2.0, 4, 0, 1, 0], [1.0, 2, 2, 0, 0], [9.0, 9, 0, 3, 1]],
    "text-generation": [[3.0, 4, 4], [2.0, 4, 5], [1.0, 4, 4], [9.0, 4, 8]],
    "image-generation": [[3.0, 2.0, 1.0], [5.0, 1.0, 4.0], [2.0, 2.0, 0.0], [1.0, 0.5, 0.5]],
    "object-detection": [
        [0, 0, 10, 10, 0.9, 0, 0, 0, 10, 10, 0],
        [0, 0, 10, 10, 0.8, 1, 0, 0, 10, 10, 0],
        [0, 0, 10, 6, 0.7, 1, 0, 0, 10, 10, 1],
        [0, 0, 10, 10, 0.6, 1, 0, 0, 0, 0, -1],
    ],
}


def build_task(name: str) -> tasks.Task:
    if name in ("token-classification", "text-generation"):
        targets = [[(0, 2, "A")]] if name == "token-classification" else None
        return make_task(
            name, Dataset(["a b c"], targets, ("A",)), tokenizer=TokenizerConfig(kind="characters", max_tokens=2)
        )
    if name == "object-detection":
        boxes = torch.tensor([[[0.0, 0, 10, 10, 0]]])
        return make_task(name, Dataset(torch.zeros(1, 1, 8, 8), boxes, ("x", "y"), input_schema=TWO_FEATURES))
    if name in ("tabular-regression", "time-series-forecasting"):
        return make_task(name, build_table(torch.zeros(4), ("price",)))
    return make_task(name, build_table(torch.zeros(4, dtype=torch.int64), ("x", "y")), net_args={"latent_size": 3})


@pytest.mark.parametrize("name", EVAL_OUTPUTS)
def test_the_primary_metric_comes_first(name: str) -> None:
    task = build_task(name)

    metrics = task.validation_metrics(torch.tensor(EVAL_OUTPUTS[name]))

    assert next(iter(metrics)) == task.primary_metric == tasks.get_primary_metric(name)
    assert metrics.items() <= task.metrics(torch.tensor(EVAL_OUTPUTS[name])).items()


@pytest.mark.parametrize("name", EVAL_OUTPUTS)
def test_the_bootstrap_metric_is_the_primary_metric_of_the_sampled_rows(name: str) -> None:
    task, eval_outputs_NK = build_task(name), torch.tensor(EVAL_OUTPUTS[name])
    metric = task.bootstrap_metric(eval_outputs_NK)

    for rows in (torch.tensor([0, 1, 2, 3]), torch.tensor([0, 2, 2, 1])):
        assert metric(rows) == pytest.approx(task.validation_metrics(eval_outputs_NK[rows])[task.primary_metric])


def test_an_unknown_task_has_no_primary_metric() -> None:
    assert tasks.get_primary_metric("no-such-task") == ""


def test_the_class_of_a_task_is_known_before_there_is_data() -> None:
    recipe = Recipe(
        name="small", task="time-series-forecasting", data=Data(source="a:b"), net=Net(source="torch.nn:Identity")
    )

    assert tasks.get_task_class(recipe).primary_metric == "mae"
    assert not tasks.get_task_class(recipe).higher_is_better


@pytest.mark.parametrize(("targets", "problem"), [(None, "are missing"), ([1.0], "are a list")])
def test_targets_that_are_no_tensor_are_refused(targets: list[float] | None, problem: str) -> None:
    dataset = Dataset(torch.zeros(1, 2), targets, ("price",), input_schema=TWO_FEATURES)

    with pytest.raises(UserError, match=f"takes targets as one tensor; the data set's {problem}"):
        make_task("tabular-regression", dataset).encode_rows(dataset)
