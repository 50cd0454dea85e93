"""What every verb of the command line shares: the settings in force, the console, tables."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.settings import Settings

console = Console()


class _Context:
    """What the options before the verb decided."""

    settings: Settings


context = _Context()


def open_registry() -> Any:
    """The registry of the settings in force."""
    from training.registry.model_registry import Registry

    return Registry(context.settings)


@contextmanager
def show_status(what: str) -> Iterator[Any]:
    """Show that something goes on, and how far it is."""
    with console.status(what) as shown:
        yield lambda now: shown.update(f"{what}: {now}" if now else what)


def make_table(*columns: str) -> Table:
    """A table that a narrow terminal, or a pipe, still shows whole."""
    made = Table(box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Held-out scores in one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
