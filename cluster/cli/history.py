"""Subcommands of the record: history (every change of a deployment), rollback (to one of them)."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.completion import complete_models
from cluster.cli.terminal import (
    Json,
    Reason,
    context,
    make_table,
    print_json,
    print_line,
    print_note,
    print_table,
    show_status,
)

if TYPE_CHECKING:
    from deployments.state.revisions import Revision

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_models)]


def add_commands(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (history, rollback):
        app.command()(command)


def history(name: Name, as_json: Json = False) -> None:
    """List every change of a deployment, newest first.

    Who made it, when and why, what was asked for, and what came of it.
    """
    from cluster.shoal import Shoal

    revisions = Shoal(context.settings).list_revisions(name)
    if as_json:
        print_json([describe_revision(each) for each in revisions])
        return
    table = make_table(
        "revision", "version", "action", "outcome", "author", "when", "reason", "message", wrapped=("reason", "message")
    )
    for each in revisions:
        row = describe_revision(each)
        action = each.action if each.restores is None else f"{each.action} to {each.restores}"
        when = datetime.fromisoformat(row["started"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        version = "" if row["version"] is None else str(row["version"])
        table.add_row(
            str(each.number),
            version,
            action,
            each.outcome.replace("_", " "),
            each.author,
            when,
            each.reason,
            each.message,
        )
    print_table(table)


def rollback(
    name: Name,
    revision: Annotated[
        int | None,
        typer.Argument(
            min=1,
            help="As `shoal history` numbers them; by default the last that succeeded and differs.",
            show_default=False,
        ),
    ] = None,
    reason: Reason = "",
) -> None:
    """Deploy again what an earlier revision did.

    It becomes a new revision, with the checks of any deployment; what is not deployed any more comes back.
    """
    from cluster.local.running_cluster import require_cluster
    from cluster.local.signals import interrupt_on_termination
    from cluster.shoal import Shoal

    cluster = require_cluster(context.settings)
    interrupt_on_termination()
    with show_status(f"rolling back {name}") as on_status:
        deployment, target = Shoal(context.settings).rollback(
            name, revision=revision, reason=reason, on_status=on_status
        )
    url = f"{cluster.url}/v2/models/{name}"
    print_line(f"rolled back {name} to revision {target.number}: {name}:{deployment.endpoint.version} at {url}")
    print_note(f"next: shoal history {name}")


def describe_revision(revision: "Revision") -> dict[str, Any]:
    """A revision as JSON; its spec whole."""
    spec = None if revision.spec is None else json.loads(revision.spec)
    return {
        "name": revision.name,
        "revision": revision.number,
        "action": revision.action,
        "restores": revision.restores,
        "version": spec["endpoint"]["version"] if spec and "endpoint" in spec else None,
        "outcome": revision.outcome,
        "message": revision.message,
        "author": revision.author,
        "reason": revision.reason,
        "started": format_time(revision.started_s),
        "ended": None if revision.ended_s is None else format_time(revision.ended_s),
        "spec": spec,
    }


def format_time(time_s: float) -> str:
    """Seconds since the epoch as ISO 8601, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
