"""What a person sees while a run trains: a bar on a terminal, a line per epoch anywhere else."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from training.recipe import Recipe


class TrainingProgress:
    """Shows each report of a run; use as a context manager."""

    def __init__(self, recipe: Recipe, console: Console) -> None:
        self._recipe, self._console = recipe, console
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[scores]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(f"{recipe.name}: starting workers", total=recipe.stop.epochs, scores="")

    def __enter__(self) -> "TrainingProgress":
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def show(self, metrics: dict[str, float]) -> None:
        """Take one report of the loop."""
        epoch = int(metrics["epoch"])
        if "loss" in metrics:
            scores = f"loss {metrics['loss']:.4f}  validation accuracy {metrics['validation_accuracy']:.4f}"
        else:
            scores = f"held-out accuracy {metrics['test_accuracy']:.4f}"
        self._bar.update(self._task, description=f"{self._recipe.name}: epoch", completed=epoch, scores=scores)
        if not self._console.is_terminal:
            self._console.print(
                f"{self._recipe.name}: epoch {epoch}/{self._recipe.stop.epochs}  {scores}", highlight=False
            )
