"""What a person sees while a run trains: a live picture on a terminal, a line per epoch anywhere else."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from training import tasks
from training.recipe.spec import Recipe
from training.worker.failures import resume_hint

# A worker that says nothing for so long is shown as silent.
SILENT_S = 5.0


class ProgressDisplay:
    """Shows each message of a run; use as a context manager."""

    def __init__(self, recipe: Recipe, console: Console) -> None:
        self._recipe, self._console = recipe, console
        self._metric = tasks.task_class(recipe).metric
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps  {task.fields[scores]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task(f"{recipe.name}: starting workers", total=None, scores="")
        self._workers: dict[int, dict[str, Any]] = {}
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)
        self._scores = ""
        self._noticed = False

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.__exit__(kind, error, trace)

    def show(self, message: dict[str, Any]) -> None:
        """Take one message of training.run.driver."""
        kind = message["kind"]
        if kind in ("started", "beat"):
            self._workers[message["rank"]] = message
        if kind == "started" and message["rank"] == 0:
            self._noticed = False
            self._workers = {rank: last for rank, last in self._workers.items() if rank < message["world"]}
            if message["step"]:
                self._print(f"goes on from step {message['step']} with {message['world']} worker(s)")
        elif kind == "beat" and message["rank"] == 0:
            self._bar.update(
                self._task,
                description=f"{self._recipe.name}: epoch {int(message['epoch']) + 1}/{self._recipe.stop.epochs}",
                completed=message["step"],
                total=message["steps"],
                scores=f"loss {message['loss']:.4f}  {message['rows_per_s']:.0f} samples/s  {self._scores}",
            )
        elif kind == "reading":
            self._reading(message["rows"], message["done"])
        elif kind == "died":
            self._print(
                f"worker {message['rank']} stopped ({message['why']}); the run goes on from its last checkpoint"
            )
        elif kind == "waiting":
            what, wanted, free = message["what"], message["wanted"], message["free"]
            self._print(f"waits for room: a {what} for each of {wanted} worker(s), {free:g} free in the cluster")
        elif kind == "notice" and message["rank"] == 0 and not self._noticed:
            # It comes again every few seconds, with another checkpoint, until the machine goes.
            self._noticed = True
            self._print(f"a machine will be taken away; keeps a checkpoint at step {message['step']}")
        elif kind == "interrupted":
            self._print(f"interrupted; {resume_hint(message['run'])}")
        elif kind == "report":
            self._report(message["metrics"])

    def _reading(self, rows: int, done: bool) -> None:
        name = self._recipe.name
        now = "starting workers" if done else f"{rows:,} rows checked"
        self._bar.update(self._task, description=f"{name}: {now}")
        if done:
            self._print(f"{rows:,} rows in files, all checked")

    def _report(self, metrics: dict[str, Any]) -> None:
        epoch, validation, test = metrics.get("epoch"), f"validation_{self._metric}", f"test_{self._metric}"
        if test in metrics:
            self._print(f"held-out {self._name} {metrics[test]:.4f}, best epoch {metrics['best_epoch']}")
        elif validation in metrics and "step" not in metrics:
            self._scores = f"validation {self._name} {metrics[validation]:.4f}"
            if not self._console.is_terminal:
                self._print(f"epoch {epoch}/{self._recipe.stop.epochs}  loss {metrics['loss']:.4f}  {self._scores}")

    @property
    def _name(self) -> str:
        return self._metric.replace("_", " ")

    def _print(self, text: str) -> None:
        self._console.print(f"{self._recipe.name}: {text}", highlight=False, markup=False)

    def _render(self) -> Group:
        line = Text()
        for rank, last in sorted(self._workers.items()):
            silent = time.time() - last["at_s"]
            line.append(f"  worker {rank}: ")
            if silent > SILENT_S:
                line.append(f"silent for {silent:.0f} s", "yellow")
            else:
                line.append(f"{last.get('rows_per_s', 0):.0f} rows/s", "green")
        return Group(self._bar, line)
