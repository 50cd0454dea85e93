"""Subcommand status: the cluster, and how each deployment is doing; once, or again and again."""

import contextlib
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len

from cluster.cli.terminal import (
    COLUMN_GAP,
    Json,
    console,
    context,
    make_table,
    print_json,
    print_line,
    print_table,
    print_warning,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Group
    from rich.table import Table

    from cluster.local.running_cluster import Cluster
    from cluster.rollout.status import ClusterStatus
    from deployments.control.summary import DeploymentSummary

COLUMNS = ("model", "revision", "version", "status", "replicas", "bounds", "variant")
TRAFFIC_COLUMNS = ("req/s", "p50", "p99", "err/s", "queue")
# The first to go where a terminal that is watched has no room for all.
LEAST_COLUMNS = ("variant", "bounds", "revision", "p50", "queue", "replicas", "version")


def add_commands(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(status)


def status(
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between refreshes.")] = 1.0,
) -> None:
    """Show the cluster, its models and their replicas.

    Replicas are those that take requests, of those that shall run; several versions at once have each their share of
    the requests in percent, or copies of them. Rates and latencies are of the last 10 seconds, within the replicas.
    """
    from cluster.local.running_cluster import find_cluster

    cluster = find_cluster(context.settings)
    if cluster is None:
        if as_json:
            print_json({"cluster": None, "deployments": []})
        else:
            print_line("no cluster runs; start one with `shoal up`")
        return
    from cluster.rollout.status import StatusClient

    with StatusClient(context.settings, cluster) as client:
        if not watch:
            _print(cluster, client.fetch(), as_json)
            return
        # Ctrl-C is how it ends, and no failure.
        with contextlib.suppress(KeyboardInterrupt):
            if as_json:
                while True:
                    print_json(_describe_json(cluster, client.fetch()), indent=None)
                    time.sleep(interval)
            _watch(cluster, client.fetch, interval)


def _watch(cluster: "Cluster", fetch: "Callable[[], ClusterStatus]", interval: float) -> None:
    """Draw the table anew until Ctrl-C."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(make_watch_view(cluster, fetch, console.width), refresh=True)
            time.sleep(interval)


def make_watch_view(cluster: "Cluster", fetch: "Callable[[], ClusterStatus]", width: int) -> "Group":
    """What a terminal of so many characters shows; nothing in it is cut but the columns that tell the least."""
    from rich.console import Group
    from rich.text import Text

    from training.errors import ServiceError

    lines = [_describe_cluster(cluster)]
    if len(lines[0]) > width:
        lines = lines[0].split("  ")
    try:
        current = fetch()
    except ServiceError as error:
        # The cluster may be back with the next refresh.
        return Group(Text(str(error), overflow="fold", no_wrap=False))
    warnings = [Text(each, overflow="fold", no_wrap=False) for each in list_warnings(current)]
    return Group(*map(Text, lines), make_status_table(current, width), *warnings)


def _print(cluster: "Cluster", current: "ClusterStatus", as_json: bool) -> None:
    if as_json:
        print_json(_describe_json(cluster, current))
        return
    print_line(_describe_cluster(cluster))
    print_table(make_status_table(current))
    for warning in list_warnings(current):
        print_warning(warning)


def _describe_cluster(cluster: "Cluster") -> str:
    return f"cluster: {cluster.url}  grpc: {cluster.grpc_address}  dashboard: {cluster.dashboard_url}"


def _describe_json(cluster: "Cluster", current: "ClusterStatus") -> dict[str, Any]:
    urls = {"url": cluster.url, "grpc": cluster.grpc_address, "dashboard": cluster.dashboard_url}
    deployments = [each.model_dump(mode="json") for each in current.deployments]
    return {"cluster": urls, "deployments": deployments, "warning": current.warning}


def make_status_table(current: "ClusterStatus", max_width: int | None = None) -> "Table":
    """Make the table: a row for each deployment.

    Args:
        current: of the cluster.
        max_width: columns are left out, the least telling first, until it fits; None for all of them.
    """
    rows = [(*COLUMNS, *TRAFFIC_COLUMNS), *map(_format_row, current.deployments)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    for name in LEAST_COLUMNS:
        width = sum(max(map(cell_len, column)) + COLUMN_GAP for column in columns) - COLUMN_GAP
        if max_width is None or width <= max_width:
            break
        columns = [column for column in columns if column[0] != name]
    table = make_table(*(column[0] for column in columns))
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*row)
    return table


def list_warnings(current: "ClusterStatus") -> list[str]:
    """What is not as it shall be."""
    from deployments.control.summary import FAILED_STATUSES, UNREADABLE

    warnings = [current.warning] if current.warning else []
    for each in current.deployments:
        if each.reason:
            has_failed = each.status in (*FAILED_STATUSES, UNREADABLE)
            warnings.append(f"{each.name} {'does not run:' if has_failed else 'is'} {each.reason}")
    return warnings


def _format_row(each: "DeploymentSummary") -> list[str]:
    # What gets no share of the requests gets copies of them.
    versions = [f"{v.version} ({f'{v.weight:g}%' if v.weight else 'copies'})" for v in each.versions]
    target = "" if each.target_replicas is None else f"/{each.target_replicas}"
    row = [
        each.name,
        "" if each.revision is None else str(each.revision),
        ", ".join(versions) if len(versions) > 1 else str(each.version or ""),
        each.status,
        f"{each.replicas}{target}",
        f"{each.min_replicas}-{each.max_replicas}" if each.version else "",
        each.variant,
    ]
    if each.traffic is None:
        return [*row, "", "", "", "", ""]
    traffic = each.traffic
    latencies = [format_latency(traffic.p50_s), format_latency(traffic.p99_s)]
    return [*row, f"{traffic.requests_per_s:.1f}", *latencies, f"{traffic.errors_per_s:.1f}", str(traffic.queued_rows)]


def format_latency(latency_s: float | None) -> str:
    """Seconds in the unit that fits."""
    if latency_s is None:
        return ""
    return f"{latency_s:.2f} s" if latency_s >= 1 else f"{latency_s * 1e3:.3g} ms"
