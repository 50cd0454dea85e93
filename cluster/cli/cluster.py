"""Commands of the cluster: init, up, join, down, logs, monitoring, settings, demo."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.completion import complete_models
from cluster.cli.terminal import (
    Json,
    console,
    context,
    make_table,
    print_json,
    print_line,
    print_note,
    print_table,
    print_warning,
    show_status,
)
from cluster.settings import list_fields, load_settings, variable_name
from training.settings import mask_passwords


def add_commands(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (init, up, join, down, logs, monitoring, settings, demo):
        app.command()(command)


def init() -> None:
    """Make SHOAL_HOME and its secrets; start nothing."""
    from cluster.local import secrets
    from deployments.access.audit.key import AuditSigner
    from training.provenance.keys import ensure_signing_key

    home = context.settings.home
    for name in secrets.ALL_SECRETS:
        secrets.ensure_secret(home, name)
    AuditSigner.open(home)
    ensure_signing_key(home)
    print_line(f"ready: {home}")


def up(
    autoscaling_config: Annotated[
        Path | None, typer.Option(help="On a cloud head: the file that Ray's launcher wrote.")
    ] = None,
) -> None:
    """Start a cluster on this machine, and all that is deployed."""
    from cluster.local.signals import interrupt_on_termination
    from cluster.shoal import Shoal

    arguments = (f"--autoscaling-config={autoscaling_config}",) if autoscaling_config else ()
    failures: list[str] = []
    interrupt_on_termination()
    with show_status("starting the cluster") as on_status:
        cluster = Shoal(context.settings).up(ray_arguments=arguments, on_status=on_status, on_failure=failures.append)
    for failure in failures:
        print_warning(failure)
    key = context.settings.home / "secrets" / "admin_key"
    print_line(f"up: {cluster.url}\ngrpc: {cluster.grpc_address}\nkey: {key}\nstop: shoal down")


def join(address: Annotated[str, typer.Argument(help="HOST:PORT of the head's Ray.")]) -> None:
    """Start a worker node on this machine for a head elsewhere."""
    from cluster.local.start import join_cluster

    with show_status(f"joining {address}"):
        join_cluster(context.settings, address)
    print_line(f"joined {address}")


def down() -> None:
    """Stop the cluster of this SHOAL_HOME, and nothing else."""
    from cluster.shoal import Shoal

    with show_status("stopping"):
        stopped = Shoal(context.settings).down(on_warning=print_warning)
    print_line(f"down: {stopped} processes ended" if stopped else "down: nothing was running")


def logs(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model or pipeline, a job, or edge, control, controller.",
            autocompletion=complete_models,
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Last lines of each log.")] = 100,
) -> None:
    """Show logs of replicas, of the edge, or of a job."""
    from cluster.local.logs import follow_logs, read_logs

    print_log = lambda source, line: console.out(f"{source}: {line}", highlight=False)  # noqa: E731
    count = read_logs(context.settings, name, lines, print_log)
    if not count and not follow:
        print_note(f"{name} has written nothing yet")
    if follow:
        follow_logs(context.settings, name, print_log)


def monitoring(
    folder: Annotated[Path, typer.Argument(help="Folder of the files.")],
    as_json: Json = False,
) -> None:
    """Write targets, alerts and dashboards for Prometheus and Grafana."""
    from cluster.local.running_cluster import require_cluster
    from cluster.monitoring import write_monitoring

    files = [str(file) for file in write_monitoring(context.settings, require_cluster(context.settings), folder)]
    if as_json:
        print_json({"files": files})
        return
    print_line("\n".join(files))
    print_note(f"next: prometheus --config.file={files[0]}; import the dashboards into Grafana")


def settings(as_json: Json = False) -> None:
    """List every setting: variable, type, default, value, origin."""
    current: Any = getattr(context, "settings", None) or load_settings()
    values = current.flatten()
    rows = [
        {
            "setting": key,
            "variable": variable_name(key),
            "type": getattr(field.annotation, "__name__", str(field.annotation)),
            "default": mask_passwords(field.default),
            "value": mask_passwords(values[key]),
            "from": current.origin(key),
            "description": field.description or "",
        }
        for key, field in list_fields().items()
    ]
    if as_json:
        print_json(rows)
        return
    columns = ("setting", "variable", "type", "default", "value", "from", "description")
    table = make_table(*columns, wrapped=("description",))
    for row in rows:
        table.add_row(*row.values())
    print_table(table)


def demo() -> None:
    """Train digits, publish, deploy and predict: the whole walk."""
    from cluster.demo import run

    run(context.settings, console)
