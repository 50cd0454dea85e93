"""Reports, invoices and exports of what is in the store."""

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from deployments.access.usage.call_event import Kind
from deployments.access.usage.export import build_cloud_events, build_lago_events, list_settled
from deployments.access.usage.invoice import build_invoice
from deployments.access.usage.prices import PriceList, load_prices
from deployments.access.usage.report import Period, UsageReport
from deployments.state.usage_tables import COUNTERS, SUMS, open_usage
from training.errors import UserError

NOVEMBER = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
HOUR_S, DAY_S = 3600, 86_400


def make_sum(
    hour_s: int, tenant: str = "acme", model: str = "flowers", kind: Kind = Kind.REQUEST, **counters: int
) -> Any:
    row = {"hour_s": hour_s, "tenant": tenant, "key": "ci", "key_id": f"id-{tenant}", "model": model, "version": "1"}
    return row | {"kind": int(kind)} | dict.fromkeys(COUNTERS, 0) | counters


@pytest.fixture
def report(tmp_path: Path) -> UsageReport:
    engine = open_usage(f"sqlite:///{tmp_path}/platform.db")
    rows = [
        make_sum(NOVEMBER - HOUR_S, requests=1000),
        make_sum(NOVEMBER, requests=3, rows=5, compute_ns=1_500_000_000),
        make_sum(NOVEMBER + HOUR_S, requests=4, rows=7),
        make_sum(NOVEMBER + DAY_S, model="roses", requests=1),
        make_sum(NOVEMBER, kind=Kind.NODE, rows=100, compute_ns=10**9),
        make_sum(NOVEMBER, kind=Kind.INTERNAL, requests=0, rows=10**6),
        make_sum(NOVEMBER, tenant="globex", requests=9),
        make_sum(NOVEMBER + 30 * DAY_S, requests=2000),
    ]
    with engine.begin() as connection:
        connection.execute(insert(SUMS), rows)
    return UsageReport(engine)


def test_usage_is_added_up_by_what_is_asked_for_and_shoals_own_requests_are_left_out(report: UsageReport) -> None:
    month = Period.parse_month("2026-11")

    by_model = report.list_usage("model", month, ("acme",))
    by_day = report.list_usage("day", month, ("acme",))
    by_hour = report.list_usage("hour", Period.parse("2026-11-01T01", "2026-11-01T02"))
    by_key = report.list_usage("key", month)

    assert [(row["model"], row["requests"], row["rows"], row["compute_s"]) for row in by_model] == [
        ("flowers", 7, 112, 2.5),
        ("roses", 1, 0, 0.0),
    ]
    assert [(row["day"], row["requests"]) for row in by_day] == [("2026-11-01", 7), ("2026-11-02", 1)]
    assert [(row["hour"], row["requests"]) for row in by_hour] == [("2026-11-01T01:00Z", 4)]
    assert [(row["tenant"], row["key_id"], row["requests"]) for row in by_key] == [
        ("acme", "id-acme", 8),
        ("globex", "id-globex", 9),
    ]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("yesterday", None, "no date"),
        ("2026-11-01T12:30", None, "within an hour"),
        ("2026-11-02", "2026-11-01", "is empty"),
    ],
)
def test_a_time_that_is_none_is_refused(start: str, end: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Period.parse(start, end)


@pytest.mark.parametrize("month", ["2026-13", "November", "2026"])
def test_a_month_that_is_none_is_refused(month: str) -> None:
    with pytest.raises(UserError, match="is no month"):
        Period.parse_month(month)


def test_december_ends_with_the_year() -> None:
    assert Period.parse_month("2026-12").end_s == int(datetime(2027, 1, 1, tzinfo=UTC).timestamp())


PRICES = """
currency: EUR
prices:
  - models: "flow*"
    request: 0.01
    rows_1k: 1.5
    compute_s: 0.1
  - request: 0.333
"""


def test_an_invoice_is_usage_times_prices(report: UsageReport, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(PRICES)
    sums = report.list_sums(Period.parse_month("2026-11"), ("acme",))

    invoice = build_invoice("acme", "2026-11", sums, load_prices(tmp_path / "prices.yaml"))

    assert [(line.model, line.unit, line.quantity, line.amount) for line in invoice.lines] == [
        ("flowers", "request", Decimal(7), Decimal("0.07")),
        ("flowers", "1,000 rows", Decimal("0.112"), Decimal("0.17")),
        ("flowers", "second of compute", Decimal("2.5"), Decimal("0.25")),
        ("roses", "request", Decimal(1), Decimal("0.33")),
    ]
    assert invoice.total == Decimal("0.82")
    rows = list(csv.DictReader(io.StringIO(invoice.to_csv())))
    assert rows[-1]["amount"] == "0.82"
    assert sum(Decimal(row["amount"]) for row in rows[:-1]) == Decimal(rows[-1]["amount"])
    assert "<th>0.82 EUR</th>" in invoice.to_html()
    assert json.loads(json.dumps(invoice.describe()))["total"] == "0.82"


@given(
    sums=st.lists(st.tuples(st.sampled_from("abc"), *[st.integers(0, 10**12)] * 6), max_size=8),
    prices=st.lists(st.decimals(0, 1000, places=9), min_size=6, max_size=6),
)
def test_the_lines_of_every_invoice_add_up_to_its_total(sums: list[Any], prices: list[Decimal]) -> None:
    fields = ("request", "rows_1k", "tokens_in_1m", "tokens_out_1m", "compute_s", "gb")
    price_list = PriceList.model_validate(
        {"currency": "USD", "prices": [dict(zip(fields, map(str, prices), strict=True))]}
    )
    names = ("requests", "rows", "tokens_in", "tokens_out", "compute_ns", "bytes_in")
    rows = [make_sum(0, model=model, **dict(zip(names, counters, strict=True))) for model, *counters in sums]

    invoice = build_invoice("acme", "2026-11", rows, price_list)

    assert sum((line.amount for line in invoice.lines), Decimal(0)) == invoice.total
    for line in invoice.lines:
        assert abs(line.quantity * line.price - line.amount) <= Decimal("0.005")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("currency: EUR\nprices: [{requests: 1}]", "requests"),
        ("currency: euro\nprices: [{request: 1}]", "currency"),
        ("currency: EUR\nprices: [{request: -1}]", "request"),
        ("currency: EUR\nprices: []", "prices"),
        ("{", "not valid YAML"),
        ("", "prices.yaml"),
    ],
)
def test_a_price_list_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(content)

    with pytest.raises(UserError, match=message):
        load_prices(tmp_path / "prices.yaml")


def test_a_price_is_the_decimal_that_was_written(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("currency: EUR\nprices: [{request: 0.1000000000000000055}]")

    assert load_prices(tmp_path / "prices.yaml").prices[0].request == Decimal("0.1000000000000000055")


def test_a_model_without_a_price_is_an_error_and_not_free(report: UsageReport) -> None:
    prices = PriceList.model_validate({"currency": "EUR", "prices": [{"models": "flowers", "request": 1}]})

    with pytest.raises(UserError, match="no price for the model 'roses'"):
        build_invoice("acme", "2026-11", report.list_sums(Period(), ("acme",)), prices)


def test_a_name_in_a_page_is_text() -> None:
    prices = PriceList.model_validate({"currency": "EUR", "prices": [{"request": 1}]})

    page = build_invoice("<b>", "2026-11", [make_sum(0, model="<script>", requests=1)], prices).to_html()

    assert "<script>" not in page
    assert "<b>" not in page


def test_events_have_the_same_id_each_time_and_one_of_their_own_for_each_sum(report: UsageReport) -> None:
    sums = report.list_sums(Period())

    events, again = list(build_cloud_events(sums)), list(build_cloud_events(sums))

    assert [event["id"] for event in events] == [event["id"] for event in again]
    assert len({event["id"] for event in events}) == len(events) == 7
    first = events[0]
    assert {name: first[name] for name in ("specversion", "type", "subject", "time")} == {
        "specversion": "1.0",
        "type": "shoal.usage",
        "subject": "acme",
        "time": "2026-10-31T23:00:00+00:00",
    }
    assert first["data"]["requests"] == 1000
    lago = list(build_lago_events(sums))
    assert len({event["transaction_id"] for event in lago}) == len(lago)
    requests = [event for event in lago if event["code"] == "shoal_requests"]
    assert sum(event["properties"]["value"] for event in requests) == 1000 + 3 + 4 + 1 + 9 + 2000


def test_an_hour_is_exported_once_it_is_over() -> None:
    rows = [make_sum(0), make_sum(HOUR_S)]

    assert list(list_settled(rows, HOUR_S + 10)) == []
    assert list(list_settled(rows, HOUR_S + 600)) == rows[:1]
