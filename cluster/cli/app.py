"""The `shoal` command: its commands, the options before them, and what becomes of an error.

Commands stand in files of their own, each of which parses, calls one function and prints. Heavy imports stay inside,
so that a command starts at once (tests/cluster/cli/test_imports.py holds what each may import).
"""

import errno
import os
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from cluster.cli import (
    audit,
    cluster,
    history,
    keys,
    models,
    planning,
    predict,
    provenance,
    recipes,
    rollout,
    runs,
    serving,
    status,
    tenants,
    training,
    usage,
)
from cluster.cli.terminal import context, print_line
from cluster.settings import check_home, load_settings
from training.errors import ServiceError, UserError, summarize_validation_error
from training.settings import mask_passwords

# What is wrong with the machine, not with Shoal; and the remedy.
MACHINE_ERRORS = {
    errno.ENOSPC: "free some space, or set SHOAL_HOME to a folder with more",
    errno.EDQUOT: "free some space, or set SHOAL_HOME to a folder with more",
    errno.EROFS: "set SHOAL_HOME to a folder that can be written",
    errno.EACCES: "set SHOAL_HOME to a folder that you may write, or change its permissions",
    errno.EPERM: "set SHOAL_HOME to a folder that you may write, or change its permissions",
    errno.ENOTDIR: "set SHOAL_HOME to a folder",
}
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
HELP_OPTIONS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

app = typer.Typer(
    name="shoal",
    help="Models as a service on Ray: train a PyTorch model, publish it, serve it behind one HTTP call.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP_OPTIONS,
)
for group in (cluster, status, training, serving, history, planning, predict, usage):
    group.add_commands(app)
provenance.add_commands(app, models.app)
app.add_typer(models.app, name="models", invoke_without_command=True)
app.add_typer(provenance.app, name="trust", invoke_without_command=True)
app.add_typer(runs.app, name="runs", invoke_without_command=True)
app.add_typer(rollout.app, name="rollout")
app.add_typer(keys.app, name="keys", invoke_without_command=True)
app.add_typer(audit.app, name="audit", invoke_without_command=True)
app.add_typer(usage.app, name="usage", invoke_without_command=True)
app.add_typer(tenants.app, name="tenants", invoke_without_command=True)
app.add_typer(recipes.app, name="recipes", invoke_without_command=True)

# Typer has a copy of click of its own, and exports no name for what it raises when a command line is wrong.
UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

RENAMED_OPTIONS = {"--most": "--limit"}


def _print_version(value: bool) -> None:
    if value:
        print_line(f"shoal {version('shoal')}")
        raise typer.Exit


@app.callback()
def options(
    settings: Annotated[Path | None, typer.Option("--settings", help="A YAML file of settings.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, no progress.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that come before the command."""
    context.settings = load_settings(settings)
    check_home(context.settings)
    context.quiet = quiet
    # Before any command imports Ray, which reads its switches at import.
    from cluster.local.ray_environment import set_ray_environment

    set_ray_environment(context.settings)


def main() -> None:
    """Entry point: no traceback ever reaches a person."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns 0, 1 for a failure, 2 for a user's error, 130 where it was interrupted."""
    errors = Console(stderr=True)

    def print_error(message: str) -> None:
        errors.print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)

    try:
        result: Any = typer.main.get_command(app)(arguments or ["--help"], prog_name="shoal", standalone_mode=False)
    except UsageError as error:
        new_name = RENAMED_OPTIONS.get(getattr(error, "option_name", ""))
        print_error(error.format_message() + (f" It is called {new_name} now." if new_name else ""))
        return 2
    except UserError as error:
        print_error(str(error))
        return 2
    except ValidationError as error:
        print_error(summarize_validation_error(error))
        return 2
    except ServiceError as error:
        print_error(str(error))
        return 1
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
            where = f"{error.filename}: " if error.filename else ""
            print_error(f"{where}{error.strerror}; {MACHINE_ERRORS[error.errno]}")
            return 1
        first_line = str(error).splitlines()[0] if str(error) else "no message"
        print_error(f"{type(error).__name__}: {mask_passwords(first_line)}{_save_traceback(error)}")
        return 1
    if result == INTERRUPTED:
        # Typer turns Ctrl-C into this exit code by itself, without a word.
        print_error(" ".join(filter(None, ["interrupted", context.left_by_interrupt])))
    return result if isinstance(result, int) else 0


def _save_traceback(error: Exception) -> str:
    """Append an unforeseen error's traceback to a log that can be sent to Shoal's developers; returns where it is."""
    try:
        folder = context.settings.home / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        # It may quote what the command was given: nobody else's to read, and without passwords.
        with open(folder / "errors.log", "a", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(mask_passwords("".join(traceback.format_exception(error))))
    except (OSError, AttributeError):
        return ""
    return f" (a fault of Shoal's; its traceback is in {folder / 'errors.log'})"
