"""Progress display: shows a run while it trains, as a live bar on a terminal and as a line per epoch elsewhere.

Train walk: cluster.train -> [progress_display.py] -> driver.py
"""

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from training.recipe.spec import PRIMARY_METRICS, Recipe
from training.worker.error_classification import resume_hint
from training.worker.progress_channel import Message

# A worker that has sent nothing for so long is shown as silent.
SILENT_S = 5.0


class ProgressDisplay:
    """Shows each message of a run; use as a context manager."""

    def __init__(self, recipe: Recipe, console: Console) -> None:
        self._recipe, self._console = recipe, console
        self._metric = PRIMARY_METRICS[recipe.task]
        self._metric_label = self._metric.replace("_", " ")
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps  {task.fields[scores]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar_task = self._bar.add_task(f"{recipe.name}: starting workers", total=None, scores="")
        self._last_messages: dict[int, Message] = {}
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)
        self._scores = ""
        self._notice_shown = False
        self._handlers = {
            "scanning": self._show_scanning,
            "data_warning": self._show_data_warning,
            "preflight_passed": self._show_preflight_passed,
            "loading": lambda message: None,
            "started": self._show_started,
            "progress": self._show_progress,
            "stalled": self._show_stalled,
            "preemption_notice": self._show_preemption_notice,
            "report": self._show_report,
            "worker_failed": self._show_worker_failed,
            "waiting_for_resources": self._show_waiting_for_resources,
            "interrupted": self._show_interrupted,
        }

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.__exit__(error_type, error, traceback)

    def show(self, message: Message) -> None:
        """Show one message of the driver; see training.worker.progress_channel for their kinds."""
        self._handlers[message["kind"]](message)

    def _show_scanning(self, message: Message) -> None:
        status = "starting workers" if message["done"] else f"{message['rows']:,} rows scanned"
        self._bar.update(self._bar_task, description=f"{self._recipe.name}: {status}")
        if message["done"]:
            self._print(f"{message['rows']:,} rows scanned, all valid")

    def _show_data_warning(self, message: Message) -> None:
        self._print(f"warning: {message['text']}")

    def _show_preflight_passed(self, message: Message) -> None:
        if message["net_input"]:
            self._print(f"the net gets {message['net_input']}")

    def _show_started(self, message: Message) -> None:
        self._last_messages[message["rank"]] = message
        if message["rank"]:
            return
        self._notice_shown = False
        workers = message["world_size"]
        self._last_messages = {rank: last for rank, last in self._last_messages.items() if rank < workers}
        if message["step"]:
            self._print(f"resumed at step {message['step']} with {workers} worker(s)")

    def _show_progress(self, message: Message) -> None:
        self._last_messages[message["rank"]] = message
        if message["rank"]:
            return
        self._bar.update(
            self._bar_task,
            description=f"{self._recipe.name}: epoch {int(message['epoch']) + 1}/{self._recipe.stop.epochs}",
            completed=message["step"],
            total=message["steps"],
            scores=f"loss {message['loss']:.4f}  {message['rows_per_s']:.0f} rows/s  {self._scores}",
        )

    def _show_stalled(self, message: Message) -> None:
        self._print(f"worker {message['rank']} has made no step for {message['seconds']} s: {message['location']}")

    def _show_worker_failed(self, message: Message) -> None:
        self._print(f"worker {message['rank']} failed ({message['reason']}); resuming from the last checkpoint")

    def _show_waiting_for_resources(self, message: Message) -> None:
        resource, remedies = message["resource"], []
        line = (
            f"waiting for resources: a {resource} for each of {message['required']} worker(s), "
            f"{message['available']:g} available in the cluster"
        )
        if held := message.get("held"):
            line += f" (deployed: {', '.join(f'{name} {amount:g} {resource}' for name, amount in held.items())})"
            remedies.append(f"`shoal undeploy {max(held, key=held.__getitem__)}`")
        if message["required"] > 1:
            remedies.append("end this run and take fewer workers (--workers 1)")
        self._print(f"{line}; {' or '.join(remedies)}" if remedies else line)

    def _show_preemption_notice(self, message: Message) -> None:
        # It is repeated every few seconds, each time with another checkpoint, until the node goes.
        if message["rank"] == 0 and not self._notice_shown:
            self._notice_shown = True
            self._print(f"a node will be preempted; saving a checkpoint at step {message['step']}")

    def _show_interrupted(self, message: Message) -> None:
        self._print(f"interrupted; {resume_hint(message['run'])}")

    def _show_report(self, message: Message) -> None:
        metrics = message["metrics"]
        validation, test = f"validation_{self._metric}", f"test_{self._metric}"
        if test in metrics:
            self._print(f"test {self._metric_label} {metrics[test]:.4f}, best epoch {metrics['best_epoch']}")
        elif validation in metrics and "step" not in metrics:
            self._scores = f"validation {self._metric_label} {metrics[validation]:.4f}"
            if not self._console.is_terminal:
                epochs = f"{metrics['epoch']}/{self._recipe.stop.epochs}"
                self._print(f"epoch {epochs}  loss {metrics['loss']:.4f}  {self._scores}")

    def _print(self, text: str) -> None:
        self._console.print(f"{self._recipe.name}: {text}", highlight=False, markup=False)

    def _render(self) -> Group:
        line = Text()
        for rank, last in sorted(self._last_messages.items()):
            silent_s = time.time() - last["at_s"]
            line.append(f"  worker {rank}: ")
            if silent_s > SILENT_S:
                line.append(f"silent for {silent_s:.0f} s", "yellow")
            else:
                line.append(f"{last.get('rows_per_s', 0):.0f} rows/s", "green")
        return Group(self._bar, line)
