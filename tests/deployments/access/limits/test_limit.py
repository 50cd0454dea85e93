"""Limits as people write them."""

from datetime import UTC, datetime

import pytest

from deployments.access.limits.limit import (
    Dimension,
    Limit,
    Period,
    Window,
    change_limits,
    find_window,
    format_limits,
    parse_limit,
    parse_limits,
    read_limits,
)
from training.errors import UserError


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("requests=100/day", Limit(Dimension.REQUESTS, 100, Period.DAY)),
        ("rows=1e6/month", Limit(Dimension.ROWS, 1_000_000, Period.MONTH)),
        ("tokens=50_000/minute", Limit(Dimension.TOKENS, 50_000, Period.MINUTE)),
        ("compute_s=0.5/s", Limit(Dimension.COMPUTE_S, 0.5, Period.SECOND)),
        (" requests = 20 / s ", Limit(Dimension.REQUESTS, 20, Period.SECOND)),
        ("concurrent=8", Limit(Dimension.CONCURRENT, 8)),
    ],
)
def test_a_limit_is_read_as_it_is_written(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit
    assert parse_limit(str(limit)) == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reqests=1/day", "'reqests=1/day' is no limit; write one of requests, rows, tokens, compute_s, concurrent"),
        ("requests", "'requests' is no limit"),
        ("requests=0/day", "'0' is no amount; write a number above 0"),
        ("requests=-5/day", "'-5' is no amount"),
        ("requests=1e99/day", "'1e99' is no amount"),
        ("requests=nan/day", "'nan' is no amount"),
        ("requests=100", "'' is no period; write requests=100/ and s, minute, hour, day or month"),
        ("requests=100/week", "'week' is no period"),
        ("requests=0.5/s", "requests are counted in whole numbers"),
        ("concurrent=8/day", "concurrent requests have no period; write concurrent=8"),
    ],
)
def test_what_is_no_limit_gets_the_rule_and_the_remedy(text: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_limit(text)

    assert message in str(refusal.value)


def test_limits_are_kept_by_name_and_changed_by_name() -> None:
    kept = parse_limits(["requests=100/day", "concurrent=8"])

    changed = change_limits(kept, ["requests=5/day", "rows=1e3/month"], ["concurrent"])

    assert kept == {"requests/day": "100", "concurrent": "8"}
    assert changed == {"requests/day": "5", "rows/month": "1000"}
    assert format_limits(changed) == "requests=5/day, rows=1000/month"
    assert [limit.name for limit in read_limits(changed)] == list(changed)


def test_a_limit_is_named_once_and_removed_only_where_there_is_one() -> None:
    with pytest.raises(UserError, match="requests/day is given twice"):
        parse_limits(["requests=100/day", "requests=5/d"])
    with pytest.raises(UserError, match="there is no limit 'rows/day' to remove; there is requests/day"):
        change_limits({"requests/day": "100"}, [], ["rows/day"])


def test_days_and_months_are_the_calendars_in_utc() -> None:
    now_s = datetime(2028, 2, 29, 23, 59, 30, tzinfo=UTC).timestamp()

    def at(*parts: int) -> float:
        return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]

    assert find_window(Period.MINUTE, now_s) == Window(at(2028, 2, 29, 23, 59), at(2028, 3, 1))
    assert find_window(Period.DAY, now_s) == Window(at(2028, 2, 29), at(2028, 3, 1))
    assert find_window(Period.MONTH, now_s) == Window(at(2028, 2, 1), at(2028, 3, 1))
    assert find_window(Period.MONTH, at(2027, 12, 31)) == Window(at(2027, 12, 1), at(2028, 1, 1))
