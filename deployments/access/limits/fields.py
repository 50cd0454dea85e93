"""The fields that tell a caller how its limits stand, and the refusal of one that has none left.

Request walk: accounts.py -> [fields.py]
RateLimit fields as structured fields: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
"""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from deployments.access.limits.allowances import Allowance
from deployments.access.limits.limit import Dimension, Limit, Period, find_window, format_amount
from deployments.errors import RATE_LIMIT, RATE_LIMIT_POLICY, LimitExceeded

Fields = tuple[tuple[bytes, bytes], ...]


def encode_fields(allowance: Allowance) -> Fields:
    """Encode the policy of a limit, and what is left of it."""
    lease, period = allowance.lease, allowance.limit.period
    name, policy = _encode_policy(allowance.subject[:7] == "tenant:", allowance.limit, lease.limit, lease.window_s)
    left = math.floor(allowance.remaining)
    if period is None:
        return ((RATE_LIMIT_POLICY, policy), (RATE_LIMIT, b"%b;r=%d" % (name, left)))
    return ((RATE_LIMIT_POLICY, policy), (RATE_LIMIT, b"%b;r=%d;t=%d" % (name, left, _find_reset_s(allowance))))


@lru_cache(maxsize=1024)
def _encode_policy(is_tenants: bool, limit: Limit, amount: float, window_s: float) -> tuple[bytes, bytes]:
    """The name of a policy as a string of structured fields, and the policy; a month's length depends on the window."""
    name = b'"%b%b"' % (b"tenant-" if is_tenants else b"", limit.name.replace("/", "-").encode())
    policy = b"%b;q=%d" % (name, math.floor(amount))
    if limit.period is None:
        return name, policy
    window = find_window(limit.period, window_s)
    return name, b"%b;w=%d" % (policy, round(window.end_s - window.start_s))


def encode_tightest(allowances: Sequence[Allowance]) -> Fields:
    """Encode the limit of which the least share is left."""
    return encode_fields(min(allowances, key=lambda each: each.remaining / each.lease.limit))


def _find_reset_s(allowance: Allowance) -> int:
    """Whole seconds until there are units again; one at least."""
    period = allowance.limit.period
    if period is None or period is Period.SECOND:
        return 1
    return max(1, math.ceil(allowance.resets_s - time.monotonic()))


def build_refusal(allowance: Allowance, amount: float) -> LimitExceeded:
    """Build the refusal of a request that needs an amount of a limit."""
    lease, limit = allowance.lease, allowance.limit
    whose = "the tenant's limit" if allowance.subject.startswith("tenant:") else "the key's limit"
    text = f"{limit.dimension}={format_amount(lease.limit)}" + (f"/{limit.period}" if limit.period else "")
    fields = encode_fields(allowance)
    if amount > lease.limit:
        return LimitExceeded(
            f"{format_amount(amount)} {limit.dimension} are over {whose} of {text}; send fewer in a request",
            _find_reset_s(allowance),
            fields,
        )
    reset_s = _find_reset_s(allowance)
    message = f"{whose} of {text} is reached: {_describe_use(allowance, amount, reset_s)}"
    return LimitExceeded(message, reset_s, fields)


def _describe_use(allowance: Allowance, amount: float, reset_s: int) -> str:
    limit = allowance.limit
    if limit.dimension is Dimension.CONCURRENT:
        return f"{format_amount(allowance.used)} requests are inside; try again when one has ended"
    if limit.period is Period.SECOND:
        return "requests come faster; try again in a second, or send more slowly"
    reset = datetime.fromtimestamp(time.time() + reset_s, UTC).isoformat(timespec="seconds")
    used = f"{format_amount(allowance.used)} are used"
    if allowance.remaining:
        used += f", this request needs {format_amount(amount)}"
    return f"{used}; it begins anew in {reset_s} s, at {reset}"
