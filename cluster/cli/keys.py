"""Subcommands of keys: tenants' API keys: create, list, show, update, rotate, revoke."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.tenants import LimitOption, NoLimit
from cluster.cli.terminal import Json, context, make_table, print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from deployments.access.api_keys import ApiKey
    from deployments.access.key_manager import KeyManager

app = typer.Typer(help="API keys: create, list, show, update, rotate, revoke.", rich_markup_mode=None)

Reference = Annotated[str, typer.Argument(metavar="KEY", help="Its id, TENANT/NAME, or NAME where one tenant has it.")]
Allow = Annotated[
    str | None,
    typer.Option(
        help="Scopes as predict:digits-*,read:* (read, predict, deploy, train, keys, usage, audit, metrics, admin), or "
        "roles: viewer, caller, developer, manager, auditor, monitor, admin.",
        show_default=False,
    ),
]
Expires = Annotated[str | None, typer.Option(help="30d, 12h, a date as 2027-01-31, or never.", show_default=False)]
Tenant = Annotated[str | None, typer.Option(help="The tenant (a project or team) that owns it.", show_default=False)]


@app.callback()
def default(context_: typer.Context, as_json: Json = False) -> None:
    """API keys: create, list, show, update, rotate, revoke; list where no command follows."""
    if not context_.invoked_subcommand:
        list_(as_json=as_json)


@app.command()
def create(
    name: str,
    tenant: Tenant = None,
    allow: Allow = None,
    expires: Expires = None,
    limit: LimitOption = None,
    as_json: Json = False,
) -> None:
    """Make a key, and show it: once, it is kept nowhere.

    Without --allow it may read the catalog, and nothing else.
    """
    from deployments.access.caller import DEFAULT_TENANT
    from deployments.access.scopes import LEAST

    created = _open_manager().create(tenant or DEFAULT_TENANT, name, allow or LEAST, expires or "never", limit or ())
    _print_created(created.record, created.key, as_json)


@app.command("list")
def list_(
    tenant: Tenant = None,
    revoked: Annotated[bool, typer.Option("--revoked", help="Those that are revoked, too.")] = False,
    as_json: Json = False,
) -> None:
    """List keys."""
    keys = _open_manager().list(tenant, with_revoked=revoked)
    if as_json:
        print_json([key.describe() for key in keys])
        return
    if not keys:
        print_note("no keys yet; next: shoal keys create NAME --tenant TENANT --allow predict:MODEL")
        return
    table = make_table("id", "tenant", "name", "status", "expires", "allow", wrapped=("allow",))
    for key in keys:
        row = key.describe()
        expires = "never" if row["expires"] is None else row["expires"][:10]
        table.add_row(key.id, key.tenant, key.name, key.status, expires, row["allow"].replace(",", ", "))
    print_table(table)


@app.command()
def show(key: Reference, as_json: Json = False) -> None:
    """Show one key: what it allows, until when, who made it."""
    _print_key(_open_manager().find(key), as_json)


@app.command()
def update(
    key: Reference,
    allow: Allow = None,
    expires: Expires = None,
    limit: LimitOption = None,
    no_limit: NoLimit = None,
    as_json: Json = False,
) -> None:
    """Change what a key allows, when it expires, or what it may use.

    In force within a second.
    """
    manager = _open_manager()
    if allow is None and expires is None and not limit and not no_limit:
        raise typer.BadParameter("name what is to change: --allow, --expires, --limit or --no-limit")
    _print_key(manager.update(manager.find(key).id, allow, expires, limit or (), no_limit or ()), as_json)


@app.command()
def rotate(
    key: Reference,
    grace: Annotated[str, typer.Option(help="How long the key before is good: 24h, 30m, 0s.")] = "24h",
    as_json: Json = False,
) -> None:
    """Give a key a new secret, shown once.

    The one before is good for --grace more.
    """
    from deployments.access.api_keys import parse_grace

    manager, grace_s = _open_manager(), parse_grace(grace)
    rotated = manager.rotate(manager.find(key).id, grace_s)
    _print_created(rotated.record, rotated.key, as_json)


@app.command()
def revoke(key: Reference, as_json: Json = False) -> None:
    """Keep a key out, within a second and for good."""
    manager = _open_manager()
    revoked = manager.revoke(manager.find(key).id)
    if as_json:
        print_json(revoked.describe())
        return
    print_line(f"revoked {revoked.tenant}/{revoked.name} ({revoked.id})")


def _open_manager() -> "KeyManager":
    from cluster.local.secrets import KEY_PEPPER, ensure_secret
    from deployments.access.audit.event import Actor
    from deployments.access.audit.log import AuditLog
    from deployments.access.audit.recorder import ChangeRecorder
    from deployments.access.caller import build_admin
    from deployments.access.key_manager import KeyManager
    from deployments.state.key_store import KeyStore

    ensure_secret(context.settings.home, KEY_PEPPER)
    settings = context.settings
    recorder = ChangeRecorder(lambda: AuditLog.open(settings), Actor.current())
    return KeyManager(KeyStore.open(settings), build_admin(), recorder)


def _print_created(record: "ApiKey", key: str, as_json: bool) -> None:
    row = record.describe() | {"key": key}
    if as_json:
        print_json(row)
        return
    print_line(f"key: {key}")
    print_note(f"of {record.tenant}/{record.name} ({record.id}), allows {row['allow']}; it is not shown again")


def _print_key(record: "ApiKey", as_json: bool) -> None:
    from deployments.access.limits.limit import format_limits

    row: dict[str, Any] = record.describe()
    if as_json:
        print_json(row)
        return
    row["limits"] = format_limits(record.limits) or None
    width = max(map(len, row))
    for name, value in row.items():
        if value is not None:
            print_line(f"{name.replace('_', ' '):{width}}  {value}")
