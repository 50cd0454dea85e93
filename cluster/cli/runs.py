"""`shoal runs`: lists, shows and compares training runs, and deletes what interrupted ones left."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cluster.cli.terminal import (
    Json,
    context,
    format_number,
    make_table,
    open_registry,
    print_json,
    print_line,
    print_note,
    print_table,
)

app = typer.Typer(
    help="Training runs: list, show, compare, delete.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Limit = Annotated[int, typer.Option("--limit", min=1, help="Runs at most, newest first.")]


@app.callback()
def default(context_: typer.Context, limit: Limit = 20, as_json: Json = False) -> None:
    """List, show, compare, delete; list where no command follows."""
    if not context_.invoked_subcommand:
        list_(limit, as_json)


@app.command("list")
def list_(limit: Limit = 20, as_json: Json = False) -> None:
    """List runs, newest first."""
    runs = _open_history().list_runs()[:limit]
    if as_json:
        print_json([_describe(run) for run in runs])
        return
    if not runs:
        print_note("no runs yet; `shoal train iris` makes one")
        return
    table = make_table("run", "status", "started", "seconds", "epoch", "loss", "score")
    for run in runs:
        table.add_row(
            run.name,
            run.status,
            datetime.fromtimestamp(run.started_s, UTC).strftime("%Y-%m-%d %H:%M"),
            format_number(run.seconds, 0),
            format_number(run.metrics.get("epoch"), 0),
            format_number(run.metrics.get("loss")),
            run.score,
        )
    print_table(table)


@app.command()
def show(run: str, as_json: Json = False) -> None:
    """Show one run: its recipe and its last metrics."""
    found = _open_history().find_run(run)
    if as_json:
        print_json(_describe(found))
        return
    print_line(f"{found.name}: {found.status} {found.score}".rstrip())
    table = make_table("key", "value")
    for key, value in sorted(found.params.items()):
        table.add_row(key, value)
    for key, number in sorted(found.metrics.items()):
        table.add_row(key, format_number(number))
    print_table(table)


@app.command()
def compare(first: str, second: str, as_json: Json = False) -> None:
    """Compare two runs: settings that differ, and all metrics."""
    history = _open_history()
    left, right = history.find_run(first), history.find_run(second)
    keys = sorted(left.params.keys() | right.params.keys())
    params = [(key, left.params.get(key, ""), right.params.get(key, "")) for key in keys]
    params = [row for row in params if row[1] != row[2]]
    metrics = [
        (key, left.metrics.get(key), right.metrics.get(key))
        for key in sorted(left.metrics.keys() | right.metrics.keys())
    ]
    if as_json:
        print_json({"runs": [left.name, right.name], "params": params, "metrics": metrics})
        return
    table = make_table("", left.name, right.name, "difference")
    for row in params:
        table.add_row(*row, "")
    for key, a, b in metrics:
        difference = f"{b - a:+.4g}" if a is not None and b is not None else ""
        table.add_row(key, format_number(a), format_number(b), difference)
    print_table(table)


@app.command()
def delete(run: str) -> None:
    """Delete an interrupted run's checkpoints; its record stays."""
    from deployments.access.audit.log import AuditLog

    history = _open_history()
    name = history.find_run(run).name
    with AuditLog.open(context.settings).record("runs.delete", name):
        history.delete_checkpoints(name)
    print_line(f"deleted the checkpoints of {name}")


def _open_history() -> Any:
    from training.registry.runs import RunHistory

    return RunHistory(open_registry())


def _describe(run: Any) -> dict[str, Any]:
    return {
        "run": run.name,
        "run_id": run.run_id,
        "status": run.status,
        "started_s": run.started_s,
        "seconds": run.seconds,
        "params": run.params,
        "metrics": run.metrics,
        "origin": run.origin,
    }
