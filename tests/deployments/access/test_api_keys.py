"""Records of API keys: what a person may write, and what is refused."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from deployments.access.api_keys import ApiKey, parse_expiry, parse_grace
from training.errors import UserError


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "a|b", "a\n", "\na", "-a", ".a", "a" * 64, "é", "a\x00"])
def test_a_name_that_could_be_mistaken_in_a_header_or_a_map_is_refused(name: str) -> None:
    for tenant, key in (("acme", name), (name, "ci")):
        with pytest.raises(UserError, match="is no name of a"):
            ApiKey.new(tenant, key, "read", "never", "me")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 30 * 86400), ("12h", 12 * 3600), ("90m", 5400), ("45s", 45), ("999999d", 999999 * 86400)],
)
def test_a_key_expires_after_a_duration(text: str, seconds: float) -> None:
    assert parse_expiry(text) == pytest.approx(time.time() + seconds, abs=5)


def test_a_key_expires_at_a_time_in_utc_where_it_names_no_zone() -> None:
    day = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)

    assert parse_expiry(day.date().isoformat()) == day.replace(hour=0, minute=0, second=0).timestamp()
    assert parse_expiry(day.replace(tzinfo=None).isoformat()) == day.timestamp()
    assert parse_expiry(day.astimezone().isoformat()) == day.timestamp()
    assert parse_expiry("never") is None


@pytest.mark.parametrize("text", ["", "1", "1y", "d", "-1d", "1.5d", "30 d", "1d\n", "tomorrow", "2027-13-01", "٣d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no time; write 30d, 12h"):
        parse_expiry(text)


@pytest.mark.parametrize("text", ["0s", "2020-01-01", "2020-01-01T00:00:00+00:00"])
def test_a_time_that_has_passed_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="has passed; name a time to come"):
        parse_expiry(text)


def test_a_grace_may_be_nothing() -> None:
    assert (parse_grace("0s"), parse_grace("24h")) == (0, 86400)
    with pytest.raises(UserError, match="is no duration; write 24h"):
        parse_grace("never")
