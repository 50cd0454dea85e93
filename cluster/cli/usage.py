"""Subcommands of usage: what was used, what the cluster's hours went to, exports; and `shoal invoice`."""

import csv
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.terminal import Json, context, make_table, print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from deployments.access.usage.report import UsageReport

app = typer.Typer(help="What was used: by tenant, key, model, version, day or hour.", rich_markup_mode=None)

By = Annotated[str, typer.Option(help="tenant, key, model, version, day or hour.")]
From = Annotated[str | None, typer.Option("--from", help="A date, or an hour as 2026-11-01T13.", show_default=False)]
To = Annotated[str | None, typer.Option("--to", help="As --from; not in it.", show_default=False)]
Tenant = Annotated[str | None, typer.Option(help="Of one tenant.", show_default=False)]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]

# What a terminal has no room for.
_HIDDEN = ("key_id", "joules", "co2_g", "refused", "failed")


@app.callback()
def usage(
    context_: typer.Context,
    by: By = "model",
    start: From = None,
    end: To = None,
    tenant: Tenant = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Show what was used, each answered request counted once.

    Requests, rows, tokens in and out, seconds of compute (shares of forward passes), bytes. Energy is not measured.
    """
    if context_.invoked_subcommand:
        return
    from deployments.access.usage.report import BY, Period

    if by not in BY:
        raise typer.BadParameter(f"--by {by}; write one of {', '.join(BY)}")
    rows = _open_report().list_usage(by, Period.parse(start, end), None if tenant is None else (tenant,))
    if as_json:
        print_json(rows)
    elif as_csv:
        _print_csv(rows)
    elif not rows:
        print_note("nothing was used yet; what is answered is counted within a second")
    else:
        columns = [name for name in rows[0] if name not in _HIDDEN]
        table = make_table(*(name.replace("_", " ") for name in columns))
        for row in rows:
            table.add_row(*(_format(row[name]) for name in columns))
        print_table(table)


@app.command()
def capacity(start: From = None, end: To = None, as_json: Json = False) -> None:
    """Show what the cluster's hours went to.

    Core-hours of passes, idle replicas, training, others, nothing.
    """
    from deployments.access.usage.report import Period

    summary = _open_report().summarize_capacity(Period.parse(start, end))
    if as_json:
        print_json(summary)
        return
    models = summary.pop("models")
    for name, value in summary.items():
        print_line(f"{name.replace('_', ' '):22}  {value:.4f}")
    if models:
        table = make_table("model", "core hours", "used", "idle")
        for each in models:
            table.add_row(each["model"], *(f"{each[name]:.4f}" for name in list(each)[1:]))
        print_table(table)


@app.command()
def export(
    format_: Annotated[str, typer.Option("--format", help="cloudevents (OpenMeter takes them) or lago.")] = (
        "cloudevents"
    ),
    start: From = None,
    end: To = None,
    tenant: Tenant = None,
) -> None:
    """Print the sums of past hours as events.

    One JSON object a line; an event has the same id each time, so a billing system counts it once.
    """
    from deployments.access.usage.export import FORMATS, list_settled
    from deployments.access.usage.report import Period

    if format_ not in FORMATS:
        raise typer.BadParameter(f"--format {format_}; write one of {', '.join(FORMATS)}")
    sums = _open_report().list_sums(Period.parse(start, end), None if tenant is None else (tenant,))
    for event in FORMATS[format_](list_settled(sums, time.time())):
        sys.stdout.write(json.dumps(event) + "\n")


def add_commands(parent: typer.Typer) -> None:
    """Register the commands."""
    parent.command()(invoice)


def invoice(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    month: Annotated[str, typer.Argument(metavar="MONTH", help="As 2026-11.")],
    prices: Annotated[Path, typer.Option(help="YAML file of prices; deployments/README.md has one.")],
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.", show_default=False)] = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Work out what a tenant owes for a month."""
    from deployments.access.usage.invoice import COLUMNS, build_invoice
    from deployments.access.usage.prices import load_prices
    from deployments.access.usage.report import Period

    period, price_list = Period.parse_month(month), load_prices(prices)
    bill = build_invoice(tenant, month, _open_report().list_sums(period, (tenant,)), price_list)
    if html is not None:
        html.write_text(bill.to_html())
        print_note(f"wrote {html}")
    if as_json:
        print_json(bill.describe())
    elif as_csv:
        sys.stdout.write(bill.to_csv())
    elif html is None:
        table = make_table(*COLUMNS)
        for line in bill.describe()["lines"]:
            table.add_row(*line.values())
        print_table(table)
        print_line(f"total: {bill.total:f} {bill.currency}")


def _open_report() -> "UsageReport":
    from deployments.access.usage.report import UsageReport
    from deployments.state.usage_tables import open_usage

    return UsageReport(open_usage(context.settings.platform))


def _print_csv(rows: list[dict[str, Any]]) -> None:
    if rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _format(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
