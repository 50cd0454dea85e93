"""Terminal: what all subcommands share: settings, console, tables that never cut an identifier, JSON, progress."""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from cluster.cli.completion import complete_models
from cluster.settings import Settings

console = Console(soft_wrap=True)

# Of a table without a box.
COLUMN_GAP = 2
# How a status begins that tells what keeps a command waiting.
WAITING = "waiting for "
# Of a table in a pipe; and of prose in a narrow terminal.
MAX_WIDTH, MIN_PROSE_WIDTH = 100_000, 24

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option(help="Why, for the record that `shoal history` shows.", show_default=False)]
Reference = Annotated[
    str,
    typer.Argument(metavar="NAME[:VERSION|@ALIAS]", help="NAME is its newest version.", autocompletion=complete_models),
]


class _Context:
    """The options before the command; and what an interrupt left, which Typer would not pass on."""

    settings: Settings
    quiet: bool = False
    left_by_interrupt: str = ""


context = _Context()


def print_line(text: str) -> None:
    """Print a result; never wrapped, so that it can be read by programs."""
    console.print(text, highlight=False, markup=False)


def print_note(text: str) -> None:
    """Print what a person may want to know and no program needs; nothing with --quiet."""
    if not context.quiet:
        print_line(text)


def get_progress_console() -> Console:
    """Where long work shows how far it is; nothing comes of it with --quiet."""
    return Console(quiet=True) if context.quiet else console


def print_warning(text: str) -> None:
    """Print what went wrong without ending the command, to standard error."""
    Console(stderr=True).print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON; in one line without `indent`."""
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@contextmanager
def show_status(action: str) -> Iterator[Callable[[str], None]]:
    """Show that a command is at work; yields a function that takes its status.

    Where no terminal shows it, what the command waits for is printed to standard error, once each.
    """
    printed: set[str] = set()

    def show(status: str) -> None:
        line = ": ".join(filter(None, (action, status)))
        if spinner is not None:
            spinner.update(line)
        if not console.is_terminal and status.startswith(WAITING) and status not in printed and not context.quiet:
            printed.add(status)
            Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)

    with nullcontext() if context.quiet else console.status(action) as spinner:
        try:
            yield show
        except KeyboardInterrupt as error:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends anyway
            context.left_by_interrupt = str(error)
            raise


def make_table(*columns: str, wrapped: Sequence[str] = ()) -> Table:
    """Make a table; only cells of `wrapped` columns (prose) may be wrapped, all others stay in one piece."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        if column in wrapped:
            table.add_column(column, overflow="fold", min_width=MIN_PROSE_WIDTH)
        else:
            table.add_column(column, no_wrap=True)
    return table


def print_table(table: Table) -> None:
    """Print a table; wider than the terminal where its unwrapped cells need it, and not wrapped at all in a pipe."""
    for column in table.columns:
        if column.no_wrap:
            # Rich takes the longest word for what such a cell needs.
            column.min_width = max(cell_len(str(text)) for text in (column.header, *column.cells))
    # Not Rich's own minimum, for which it folds no word, as a path or a list of choices in prose may be.
    minimum = sum(column.min_width or cell_len(str(column.header)) for column in table.columns)
    minimum += COLUMN_GAP * (len(table.columns) - 1)
    measured = Measurement.get(console, console.options.update(width=MAX_WIDTH), table)
    width = max(console.width, minimum) if console.is_terminal else measured.maximum
    # console.print would cap the width at the terminal's.
    wide = Console(width=width, force_terminal=console.is_terminal, no_color=console.no_color)
    with wide.capture() as capture:
        wide.print(table)
    for line in capture.get().splitlines():
        console.file.write(line.rstrip() + "\n")


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Metrics in one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def format_number(value: float | None, digits: int = 4) -> str:
    """A number, or nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def open_registry() -> Any:
    """The registry of the settings in force."""
    from cluster.audited_registry import AuditedRegistry

    return AuditedRegistry(context.settings)
