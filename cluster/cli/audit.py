"""`shoal audit`: lists the audit log, exports it, verifies it, and prints its head."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.terminal import (
    Json,
    context,
    make_table,
    print_json,
    print_line,
    print_note,
    print_table,
    print_warning,
)
from training.errors import UserError

if TYPE_CHECKING:
    from deployments.access.audit.chain import Head, Verification
    from deployments.access.audit.reader import AuditReader

app = typer.Typer(
    help="The audit log: list, export, verify, head.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
MAX_PROBLEMS = 20
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
PublicKeyFiles = Annotated[
    list[Path] | None,
    typer.Option("--public-key", help="PEM file of who may have signed; by default secrets/audit_key.pub."),
]


@app.callback()
def default(
    context_: typer.Context,
    since: Annotated[
        str, typer.Option(help="From then on: 30m, 1h, 7d, or 2026-11-28T12:00.", show_default=False)
    ] = "",
    actor: Annotated[str, typer.Option(help="Who: ann@host, tenant/name, or ann.", show_default=False)] = "",
    action: Annotated[str, typer.Option(help="What: deploy, key.create, access.refused.", show_default=False)] = "",
    target: Annotated[str, typer.Option(help="Of what: a model, a path.", show_default=False)] = "",
    outcome: Annotated[str, typer.Option(help="started, succeeded, failed, refused.", show_default=False)] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows at most, the last ones.")] = 50,
    as_json: Json = False,
) -> None:
    """List every change and every refusal; export, verify, head."""
    if context_.invoked_subcommand:
        return
    from deployments.access.audit.event import ACTIONS
    from deployments.access.audit.reader import AuditFilter

    if action and action not in ACTIONS:
        raise UserError(f"--action {action!r} is none; it is one of {', '.join(ACTIONS)}")
    wanted = AuditFilter(
        since=_parse_since(since) if since else None,
        actor=actor,
        action=action,
        target=target,
        outcome=outcome,
    )
    rows = _open_reader().list_rows(wanted, limit)
    if as_json:
        print_json([row.to_json() for row in rows])
        return
    if not rows:
        print_note("no rows" if wanted != AuditFilter() else "no rows yet; `shoal up` writes the first")
        return
    table = make_table("row", "when", "actor", "action", "target", "outcome", "message", wrapped=("message",))
    for row in rows:
        content = row.content
        names = ("actor", "action", "target", "outcome", "message")
        table.add_row(str(row.sequence), _format_time(content["time"]), *(str(content[name]) for name in names))
    print_table(table)


@app.command()
def export(
    file: Annotated[Path | None, typer.Argument(help="New file; by default standard output.")] = None,
) -> None:
    """Write all rows as JSON lines, which `verify --file` takes."""
    rows = _open_reader().iterate_rows()
    if file is None:
        for row in rows:
            typer.echo(row.to_line())
        return
    try:
        with file.open("x", encoding="utf-8") as stream:
            count = 0
            for row in rows:
                stream.write(row.to_line() + "\n")
                count += 1
    except FileExistsError:
        raise UserError(f"{file} exists already; give a new file") from None
    print_line(f"wrote {count} rows to {file}")


@app.command()
def verify(
    file: Annotated[Path | None, typer.Option("--file", help="An export, instead of the database.")] = None,
    public_key: PublicKeyFiles = None,
    head: Annotated[
        list[Path] | None, typer.Option("--head", help="A head that was kept elsewhere; may be given several times.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find rows that were altered, dropped, moved or inserted.

    Exits with 1 where there are any. Rows that are missing at the end show by a head: one is kept in SHOAL_HOME; keep
    others where nobody who could alter both may write.
    """
    from deployments.access.audit.chain import verify_lines
    from deployments.access.audit.key import PUBLIC_KEY_FILE, PublicKeys

    home = context.settings.home
    keys = PublicKeys.load(*(public_key or [home / PUBLIC_KEY_FILE]))
    heads = [_read_head(each) for each in head or []]
    if file:
        try:
            with file.open(encoding="utf-8", errors="surrogateescape") as stream:
                verification = verify_lines(stream, keys, heads)
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from error
    else:
        reader = _open_reader()
        kept = _read_kept_head()
        verification = reader.verify(keys, [*heads, *kept])
        if not kept and verification.rows:
            print_warning(
                "no head is kept here: that rows are missing at the end would not be seen; give one by --head"
            )
        for name in reader.list_missing_triggers() if verification.rows else []:
            print_warning(
                f"the trigger {name}, which refuses changes of rows, is not there; the next change creates it"
            )
    _report(verification, as_json)
    if verification.problems:
        raise typer.Exit(1)


@app.command("head")
def head_() -> None:
    """Print the signed hash of the last row, for `verify --head`."""
    from deployments.access.audit.chain import make_head
    from deployments.access.audit.reader import AuditFilter

    rows = _open_reader().list_rows(AuditFilter(), 1)
    if not rows:
        raise UserError("the audit log has no row yet, and so no head; `shoal up` writes the first")
    print_json(vars(make_head(rows[0])), indent=None)


def _report(verification: "Verification", as_json: bool) -> None:
    head = verification.head
    if as_json:
        print_json(
            {
                "verified": not verification.problems,
                "rows": verification.rows,
                "head": vars(head) if head else None,
                "problems": [vars(problem) for problem in verification.problems],
            }
        )
        return
    for problem in verification.problems[:MAX_PROBLEMS]:
        print_line(problem.message)
    if len(verification.problems) > MAX_PROBLEMS:
        print_line(f"and {len(verification.problems) - MAX_PROBLEMS} more")
    if verification.problems:
        print_line(
            f"not verified: {_count(len(verification.problems), 'problem')} in {_count(verification.rows, 'row')}"
        )
    else:
        print_line(f"verified: {_count(verification.rows, 'row')}{f', head {head.hash[:16]}' if head else ''}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _open_reader() -> "AuditReader":
    from deployments.access.audit.reader import AuditReader

    return AuditReader(context.settings.platform)


def _read_head(file: Path) -> "Head":
    from deployments.access.audit.chain import Head

    try:
        return Head.parse(file.read_text())
    except OSError as error:
        raise UserError(f"the head {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file} is no head: {error}; write one with `shoal audit head > FILE`") from error


def _read_kept_head() -> "list[Head]":
    from deployments.access.audit.log import HEAD_FILE

    file = context.settings.home / HEAD_FILE
    return [_read_head(file)] if file.exists() else []


def _parse_since(text: str) -> datetime:
    if match := re.fullmatch(r"([0-9]{1,6})([smhdw])", text):
        return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        # Without a zone it is the local time.
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise UserError(f"--since {text!r} is no time; write 30m, 1h, 7d, or 2026-11-28T12:00") from None


def _format_time(text: Any) -> str:
    try:
        return datetime.fromisoformat(str(text)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return str(text)  # altered
