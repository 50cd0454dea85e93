"""Run record: writes a run into the registry while it is driven: its start, each epoch's metrics, its end.

Train walk: driver.py -> [run_record.py] -> training.registry.model_registry
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from training.recipe.spec import Recipe
from training.registry.entities import Run
from training.registry.model_registry import Registry
from training.run.options import WorkerCount
from training.worker.checkpoint import ORDERING_METRIC
from training.worker.progress_channel import Message


def make_run_name(recipe: Recipe) -> str:
    """A new run's name: unique, and sorted by time."""
    return f"{recipe.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


class RunRecord:
    """The record of one run in the registry."""

    def __init__(self, registry: Registry, run_id: str) -> None:
        self.registry, self.run_id = registry, run_id

    @classmethod
    def start(cls, registry: Registry, name: str, recipe: Recipe, workers: WorkerCount, origin: str) -> "RunRecord":
        """Create the record of a new run, with the recipe as its parameters."""
        values = recipe.model_dump(mode="json")
        params = _flatten(values) | {"workers": workers}
        return cls(registry, registry.start_run(name, params, recipe=values, origin=origin))

    @classmethod
    def reopen(cls, registry: Registry, run: Run) -> "RunRecord":
        """Reopen the record of a run that is resumed."""
        registry.reopen_run(run.run_id)
        return cls(registry, run.run_id)

    def log(self, message: Message) -> None:
        """Log the metrics that a message reports at the end of an epoch; other messages are ignored."""
        metrics = message.get("metrics", {})
        # A report with a step is a checkpoint inside an epoch.
        if message["kind"] == "report" and "epoch" in metrics and "step" not in metrics:
            self.registry.log_metrics(self.run_id, select_numbers(metrics), step=int(metrics["epoch"]))

    @contextmanager
    def close(self) -> Iterator[None]:
        """Set the run's final status by how the block ends."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self.registry.end_run(self.run_id, "KILLED")
            raise
        except BaseException:
            self.registry.end_run(self.run_id, "FAILED")
            raise
        self.registry.end_run(self.run_id, "FINISHED")


def select_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers, without the one that orders checkpoints."""
    return {
        name: value for name, value in metrics.items() if isinstance(value, int | float) and name != ORDERING_METRIC
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys; an empty one is kept as a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
