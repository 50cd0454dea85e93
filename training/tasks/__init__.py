"""ML tasks: one file for each, behind one interface (base.py), and two losses (centernet_loss.py, elbo_loss.py).

Other packages use `make_task`, `get_task_class`, `get_primary_metric` and `Task`.
"""

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

__all__ = ["Task", "get_primary_metric", "get_task_class", "make_task"]

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


def get_task_class(recipe: Recipe) -> type[Task]:
    """Return the class of the recipe's task."""
    return _TASKS[recipe.task]


def get_primary_metric(task_name: str) -> str:
    """Return the name of a task's primary metric; empty for an unknown task, which old runs may have."""
    return _TASKS[task_name].primary_metric if task_name in _TASKS else ""


def make_task(recipe: Recipe, dataset: Dataset, fitted: FittedPreprocessing) -> Task:
    """Create the recipe's task for one data set."""
    return get_task_class(recipe)(recipe, dataset, fitted)
