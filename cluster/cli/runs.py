"""`shoal runs`: what was trained, and how it went; each verb parses, calls one function, prints."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from cluster.cli.terminal import console, make_table, open_registry

app = typer.Typer(help="Training runs: list, compare, delete what one left.", rich_markup_mode=None)


@app.callback()
def runs(
    context_: typer.Context,
    most: Annotated[int, typer.Option("--most", min=1, help="So many, newest first.")] = 20,
) -> None:
    """List runs where no verb follows."""
    if context_.invoked_subcommand:
        return
    from training.registry.runs import RunHistory

    shown = make_table("run", "status", "started", "seconds", "epoch", "loss", "score")
    for run in RunHistory(open_registry()).list_runs()[:most]:
        started = datetime.fromtimestamp(run.started_s, UTC).strftime("%Y-%m-%d %H:%M")
        seconds = "" if run.seconds is None else f"{run.seconds:.0f}"
        epoch, loss = run.metrics.get("epoch"), run.metrics.get("loss")
        shown.add_row(
            run.name,
            run.status,
            started,
            seconds,
            "" if epoch is None else f"{epoch:.0f}",
            "" if loss is None else f"{loss:.4f}",
            run.score,
        )
    console.print(shown)


@app.command()
def compare(one: str, other: str) -> None:
    """Set two runs side by side: the settings in which they differ, and every score."""
    from training.registry.runs import RunHistory

    found = RunHistory(open_registry())
    left, right = found.find_run(one), found.find_run(other)
    shown = make_table("", left.name, right.name, "difference")
    for key in sorted(left.params.keys() | right.params.keys()):
        a, b = left.params.get(key, ""), right.params.get(key, "")
        if a != b:
            shown.add_row(key, a, b, "")
    for key in sorted(left.metrics.keys() | right.metrics.keys()):
        a_, b_ = left.metrics.get(key), right.metrics.get(key)
        both = a_ is not None and b_ is not None
        shown.add_row(key, _number(a_), _number(b_), f"{b_ - a_:+.4g}" if both else "")  # type: ignore[operator]
    console.print(shown)


@app.command()
def delete(run: str) -> None:
    """Delete the checkpoints that an interrupted run left; its record stays, and it can no longer go on."""
    from training.registry.runs import RunHistory

    found = RunHistory(open_registry()).delete_checkpoints(run)
    console.print(f"deleted the checkpoints of {found}", highlight=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
