"""Tasks: what differs between a classifier, a tagger and a language model, one file each; the loop is the same."""

from training.data.dataset import Dataset
from training.data.preprocessing import FittedPreprocessing
from training.recipe.spec import Recipe
from training.tasks.base import Task
from training.tasks.classification import Classification
from training.tasks.image_generation import ImageGeneration
from training.tasks.object_detection import ObjectDetection
from training.tasks.regression import Forecasting, Regression
from training.tasks.text_generation import TextGeneration
from training.tasks.token_classification import TokenClassification

__all__ = ["Task", "make_task", "primary_metric", "task_class"]

_TASKS: dict[str, type[Task]] = {
    "tabular-classification": Classification,
    "image-classification": Classification,
    "text-classification": Classification,
    "audio-classification": Classification,
    "tabular-regression": Regression,
    "time-series-forecasting": Forecasting,
    "token-classification": TokenClassification,
    "text-generation": TextGeneration,
    "image-generation": ImageGeneration,
    "object-detection": ObjectDetection,
}


def task_class(recipe: Recipe) -> type[Task]:
    """The recipe's task, before there is data."""
    return _TASKS[recipe.task]


def primary_metric(name: str) -> str:
    """The metric that stands first for a task of this name; empty for none that is known."""
    return _TASKS[name].metric if name in _TASKS else ""


def make_task(recipe: Recipe, dataset: Dataset, fitted: FittedPreprocessing) -> Task:
    """Make the recipe's task for one data set."""
    return task_class(recipe)(recipe, dataset, fitted)
