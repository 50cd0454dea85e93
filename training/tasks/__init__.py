"""Tasks: what differs between a classifier, a tagger and a language model, one file each; the loop is the same."""

from training.data import Dataset
from training.prepare import Fitted
from training.recipe import Recipe
from training.tasks.base import Task
from training.tasks.classification import Classification
from training.tasks.detection import Detection
from training.tasks.generation import Generation
from training.tasks.language import Language
from training.tasks.regression import Forecast, Regression
from training.tasks.tagging import Tagging

__all__ = ["Task", "kind_of", "metric_of", "task_of"]

_TASKS: dict[str, type[Task]] = {
    "tabular-classification": Classification,
    "image-classification": Classification,
    "text-classification": Classification,
    "audio-classification": Classification,
    "tabular-regression": Regression,
    "time-series-forecasting": Forecast,
    "token-classification": Tagging,
    "text-generation": Language,
    "image-generation": Generation,
    "object-detection": Detection,
}


def kind_of(recipe: Recipe) -> type[Task]:
    """The recipe's task, before there is data."""
    return _TASKS[recipe.task]


def metric_of(name: str) -> str:
    """The metric that stands first for a task of this name; empty for none that is known."""
    return _TASKS[name].metric if name in _TASKS else ""


def task_of(recipe: Recipe, dataset: Dataset, fitted: Fitted) -> Task:
    """Make the recipe's task for one data set."""
    return kind_of(recipe)(recipe, dataset, fitted)
