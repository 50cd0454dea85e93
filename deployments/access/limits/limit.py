"""A limit: how much of something a key or tenant may use in a period, as people write it: `requests=100/day`.

Request walk: ledger.py -> [limit.py]
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from training.errors import UserError


class Dimension(StrEnum):
    """What is counted."""

    REQUESTS = "requests"
    """Requests for inference that were answered; those that failed by the service's fault aside."""
    ROWS = "rows"
    """Rows of those requests."""
    TOKENS = "tokens"
    """Tokens that texts have, and that are generated."""
    COMPUTE_S = "compute_s"
    """Seconds of forward passes: of each pass, its rows' share."""
    CONCURRENT = "concurrent"
    """Requests inside at one time."""


class Period(StrEnum):
    """In which it is counted; days and months are the calendar's, in UTC."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


_PERIODS = {"s": Period.SECOND, "min": Period.MINUTE, "h": Period.HOUR, "d": Period.DAY} | {
    each.value: each for each in Period
}
_SECONDS = {Period.SECOND: 1, Period.MINUTE: 60, Period.HOUR: 3600, Period.DAY: 86400}
# Whole numbers up to here are exact in a float.
MAX_AMOUNT = 1e15
_AMOUNT = re.compile(r"^\d+(\.\d+)?(e\d{1,2})?$")
EXAMPLES = "requests=100/day, rows=1e6/month, tokens=50000/minute, compute_s=3600/day, requests=20/s or concurrent=8"


@dataclass(frozen=True)
class Limit:
    """How much of a dimension in a period.

    Attributes:
        dimension: what is counted.
        amount: of it.
        period: None for concurrent requests.
    """

    dimension: Dimension
    amount: float
    period: Period | None = None

    @property
    def name(self) -> str:
        """As `requests/day`: a key has one limit of a name."""
        return self.dimension.value if self.period is None else f"{self.dimension}/{self.period}"

    @property
    def is_whole(self) -> bool:
        """Whether it is counted in whole numbers."""
        return self.dimension is not Dimension.COMPUTE_S

    def __str__(self) -> str:
        amount = format_amount(self.amount)
        return f"{self.dimension}={amount}" if self.period is None else f"{self.dimension}={amount}/{self.period}"


@dataclass(frozen=True)
class Window:
    """A period that has begun, in seconds since the epoch."""

    start_s: float
    end_s: float


def find_window(period: Period, now_s: float) -> Window:
    """The calendar's minute, hour, day or month of a time, in UTC."""
    if period is Period.MONTH:
        start = datetime.fromtimestamp(now_s, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end = (start + timedelta(days=32)).replace(day=1)
        return Window(start.timestamp(), end.timestamp())
    length_s = _SECONDS[period]
    start_s = now_s // length_s * length_s
    return Window(start_s, start_s + length_s)


def parse_limit(text: str) -> Limit:
    """Parse a limit.

    Raises:
        UserError: it is none.
    """
    name, equals, rest = (part.strip() for part in text.partition("="))
    amount_text, slash, period_text = (part.strip() for part in rest.partition("/"))
    if not equals or name not in list(Dimension):
        raise UserError(f"{text!r} is no limit; write one of {', '.join(Dimension)}, as in {EXAMPLES}")
    dimension, amount_text = Dimension(name), amount_text.lower().replace("_", "").replace("e+", "e")
    if not _AMOUNT.match(amount_text) or not 0 < float(amount_text) <= MAX_AMOUNT:
        raise UserError(f"{text!r}: {amount_text!r} is no amount; write a number above 0, up to {MAX_AMOUNT:g}")
    if dimension is Dimension.CONCURRENT:
        if slash:
            raise UserError(f"{text!r}: concurrent requests have no period; write concurrent={amount_text}")
        limit = Limit(dimension, float(amount_text))
    else:
        if period_text not in _PERIODS:
            raise UserError(
                f"{text!r}: {period_text!r} is no period; write {name}={amount_text}/ and s, {_list_periods()}"
            )
        limit = Limit(dimension, float(amount_text), _PERIODS[period_text])
    if limit.is_whole and not limit.amount.is_integer():
        raise UserError(
            f"{text!r}: {name} are counted in whole numbers; write one, for a longer period where it is few"
        )
    return limit


def _list_periods() -> str:
    return ", ".join(each.value for each in list(Period)[1:-1]) + f" or {Period.MONTH}"


def parse_limits(texts: Iterable[str]) -> dict[str, str]:
    """Parse limits into their amounts by name, as they are kept.

    Raises:
        UserError: one is none, or two have the same name.
    """
    limits: dict[str, str] = {}
    for limit in map(parse_limit, texts):
        if limit.name in limits:
            raise UserError(f"{limit.name} is given twice; name each limit once")
        limits[limit.name] = format_amount(limit.amount)
    return limits


def change_limits(limits: Mapping[str, str], added: Iterable[str], removed: Iterable[str]) -> dict[str, str]:
    """Change kept limits: those of the names removed go, those added replace others of their name.

    Raises:
        UserError: one added is none, or there is no such limit to remove.
    """
    changed = dict(limits)
    for name in removed:
        if name not in changed:
            raise UserError(f"there is no limit {name!r} to remove; there is {', '.join(changed) or 'none'}")
        del changed[name]
    return changed | parse_limits(added)


def read_limits(limits: Mapping[str, str]) -> tuple[Limit, ...]:
    """The limits of what is kept."""
    return tuple(read_limit(name, amount) for name, amount in limits.items())


def read_limit(name: str, amount: str) -> Limit:
    """The limit of what is kept of it."""
    dimension, _, period = name.partition("/")
    return Limit(Dimension(dimension), float(amount), Period(period) if period else None)


def format_limits(limits: Mapping[str, str]) -> str:
    """Kept limits as people write them, separated by commas."""
    return ", ".join(map(str, read_limits(limits)))


def format_amount(amount: float) -> str:
    """A number without what it does not need."""
    return str(int(amount)) if float(amount).is_integer() else f"{amount:.6g}"
