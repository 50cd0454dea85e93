"""Invoice: a tenant's usage of a month times the prices, as CSV or a page of HTML.

Usage walk: cluster.cli.usage -> [invoice.py] -> prices.py, report.py
"""

import csv
import html
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from deployments.access.usage.prices import PriceList

COLUMNS = ("model", "unit", "quantity", "price", "amount")

_UNITS: tuple[tuple[str, str, tuple[str, ...], Decimal], ...] = (
    ("request", "request", ("requests",), Decimal(1)),
    ("rows_1k", "1,000 rows", ("rows",), Decimal(1000)),
    ("tokens_in_1m", "1,000,000 tokens in", ("tokens_in",), Decimal(10**6)),
    ("tokens_out_1m", "1,000,000 tokens out", ("tokens_out",), Decimal(10**6)),
    ("compute_s", "second of compute", ("compute_ns",), Decimal(10**9)),
    ("gb", "GB", ("bytes_in", "bytes_out"), Decimal(10**9)),
)
"""Price's name, unit, counters, and how many of them a unit is."""


@dataclass(frozen=True)
class Line:
    """One line of an invoice.

    Attributes:
        model: whose usage.
        unit: what the price is of.
        quantity: units.
        price: of one.
        amount: rounded as the price list says.
    """

    model: str
    unit: str
    quantity: Decimal
    price: Decimal
    amount: Decimal


@dataclass(frozen=True)
class Invoice:
    """What a tenant owes for a month; its total is the sum of its lines."""

    tenant: str
    month: str
    currency: str
    lines: tuple[Line, ...]
    total: Decimal

    def describe(self) -> dict[str, Any]:
        """The invoice as JSON; amounts as text, which loses nothing."""
        lines = [{name: _format(getattr(line, name)) for name in COLUMNS} for line in self.lines]
        head = {"tenant": self.tenant, "month": self.month, "currency": self.currency}
        return head | {"lines": lines, "total": _format(self.total)}

    def to_csv(self) -> str:
        """The lines, and the total as the last one."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("tenant", "month", *COLUMNS, "currency"))
        for line in self.lines:
            values = (_format(getattr(line, name)) for name in COLUMNS)
            writer.writerow((self.tenant, self.month, *values, self.currency))
        writer.writerow((self.tenant, self.month, "", "total", "", "", _format(self.total), self.currency))
        return file.getvalue()

    def to_html(self) -> str:
        """A page that needs no other file."""
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_format(getattr(line, name)))}</td>" for name in COLUMNS) + "</tr>\n"
            for line in self.lines
        )
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        title = html.escape(f"Invoice: {self.tenant}, {self.month}")
        total = html.escape(f"{_format(self.total)} {self.currency}")
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
            "<style>body{font-family:sans-serif;margin:3em}td,th{padding:.3em 1em;text-align:right}"
            "td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}</style></head>\n"
            f"<body><h1>{title}</h1>\n<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>\n"
            f'<tfoot><tr><th colspan="4">total</th><th>{total}</th></tr></tfoot></table></body></html>\n'
        )


def build_invoice(tenant: str, month: str, sums: Iterable[Mapping[str, Any]], prices: PriceList) -> Invoice:
    """Build a tenant's invoice.

    Args:
        tenant: who pays.
        month: as 2026-11.
        sums: of the tenant's usage in it.
        prices: of the models.

    Raises:
        UserError: a model that was used has no price.
    """
    counters: dict[str, dict[str, int]] = {}
    for row in sums:
        of_model = counters.setdefault(row["model"], {})
        for _, _, names, _ in _UNITS:
            for name in names:
                of_model[name] = of_model.get(name, 0) + int(row[name])
    smallest = Decimal(1).scaleb(-prices.decimals)
    lines = []
    for model in sorted(counters):
        of_model, model_prices = counters[model], prices.find(model)
        for field, unit, names, size in _UNITS:
            price: Decimal = getattr(model_prices, field)
            quantity = sum((Decimal(of_model[name]) for name in names), Decimal(0)) / size
            if price and quantity:
                amount = (quantity * price).quantize(smallest, ROUND_HALF_UP)
                lines.append(Line(model, unit, quantity, price, amount))
    total = sum((line.amount for line in lines), Decimal(0).quantize(smallest))
    return Invoice(tenant, month, prices.currency, tuple(lines), total)


def _format(value: str | Decimal) -> str:
    # Not in exponents, as str writes small numbers.
    return f"{value:f}" if isinstance(value, Decimal) else value
