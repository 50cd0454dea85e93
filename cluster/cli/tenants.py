"""Subcommands of tenants: what all keys of a tenant together may use, and its weight: list, show, set."""

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.terminal import Json, context, make_table, print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from deployments.access.tenants import Tenant, TenantManager

app = typer.Typer(help="What tenants may use: list, show, set.", rich_markup_mode=None)

LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="LIMIT",
        help="What it may use: requests=100/day, rows=1e6/month, tokens=50000/minute, compute_s=3600/day, "
        "requests=20/s or concurrent=8; may be repeated.",
        show_default=False,
    ),
]
NoLimit = Annotated[
    list[str] | None,
    typer.Option(
        "--no-limit", metavar="NAME", help="Remove a limit: requests/day; may be repeated.", show_default=False
    ),
]


@app.callback()
def default(context_: typer.Context, as_json: Json = False) -> None:
    """What tenants may use: list, show, set; list where no command follows."""
    if not context_.invoked_subcommand:
        list_(as_json=as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the tenants that something was set for."""
    tenants = _open_manager().list()
    if as_json:
        print_json([tenant.describe() for tenant in tenants])
        return
    if not tenants:
        print_note("no tenant has limits or a weight; next: shoal tenants set TENANT --limit requests=1000/day")
        return
    table = make_table("tenant", "weight", "limits", wrapped=("limits",))
    for tenant in tenants:
        table.add_row(tenant.name, f"{tenant.weight:g}", _format_limits(tenant))
    print_table(table)


@app.command()
def show(tenant: str, as_json: Json = False) -> None:
    """Show what one tenant may use."""
    _print_tenant(_open_manager().get(tenant), as_json)


@app.command("set")
def set_(
    tenant: str,
    limit: LimitOption = None,
    no_limit: NoLimit = None,
    weight: Annotated[
        float | None,
        typer.Option(help="Its share of a busy replica; others have 1.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set what all keys of a tenant together may use, and its weight.

    In force within a second; what is not named stays.
    """
    if not limit and not no_limit and weight is None:
        raise typer.BadParameter("name what is to change: --limit, --no-limit or --weight")
    _print_tenant(_open_manager().update(tenant, limit or (), no_limit or (), weight), as_json)


def _open_manager() -> "TenantManager":
    from deployments.access.audit.event import Actor
    from deployments.access.audit.log import AuditLog
    from deployments.access.audit.recorder import ChangeRecorder
    from deployments.access.caller import build_admin
    from deployments.access.tenants import TenantManager
    from deployments.state.tenant_store import TenantStore

    settings = context.settings
    store = TenantStore(settings.platform)
    recorder = ChangeRecorder(lambda: AuditLog.open(settings), Actor.current())
    return TenantManager(store, build_admin(), recorder)


def _format_limits(tenant: "Tenant") -> str:
    from deployments.access.limits.limit import format_limits

    return format_limits(tenant.limits) or "none"


def _print_tenant(tenant: "Tenant", as_json: bool) -> None:
    if as_json:
        print_json(tenant.describe())
        return
    for name, value in (("name", tenant.name), ("limits", _format_limits(tenant)), ("weight", f"{tenant.weight:g}")):
        print_line(f"{name:6}  {value}")
