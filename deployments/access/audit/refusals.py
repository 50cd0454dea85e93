"""Refusals: what an edge has refused for want of rights, counted and bounded, on its way into the audit log.

Request walk: deployments.observability.access_log -> [refusals.py] -> deployments.edge.directory
A flood of them must neither fill the database nor take an edge's time: lines are counted by one expression, without
parsing their JSON, and rows come at a bounded rate; what finds no row of its own is counted together.
"""

import functools
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from deployments.access.audit.event import AuditEvent

# Different refusals that are kept until they are rows; all others are one.
MAX_DISTINCT = 50
# Different ones of one read of the pipe whose texts are looked at.
MAX_PARSED = 200
# Rows at once, and in the long run: at most 43,200 a day, some 30 MB, of an edge under attack.
BURST_ROWS, ROWS_PER_S = 20, 0.5
UNAUTHENTICATED, DENIED = "401", "403"

# A line of haproxy.cfg.j2, whose strings are JSON's: a quote within one has a backslash before it.
_STRING = rb'"((?:[^"\\]|\\.)*)"'
_REFUSED = re.compile(
    rb'"status":(401|403|200),"grpc_status":"([^"]*)","caller":%s,"source":%s,"method":%s,"path":%s,"problem":%s'
    % ((_STRING,) * 5)
)
# What a line of a refusal has, and no other.
_MARKS = (b'"status":401,', b'"status":403,', b'"grpc_status":"7"', b'"grpc_status":"16"')
# Paths that mean something here; of others, which anybody may make up, their first part counts.
_PATHS = re.compile(
    r"/v2(?:/health/[a-z]+|/models/[\w.-]{1,63}(?:/versions/\d{1,9})?(?:/[a-z_]{1,20})?)?"
    r"|/api/v1/[a-z]{1,20}(?:/[\w.-]{1,63}(?:/[a-z]{1,20})?)?"
    r"|/[\w.]{1,80}/\w{1,40}|/(?:\w[\w.-]{0,40})?"
)


@dataclass(frozen=True)
class Refusal:
    """What one caller was refused from one address, so often.

    Attributes:
        caller: its name; empty where the key is missing or unknown.
        source: its address.
        request: method and path.
        status: 401 or 403, of HTTP or as gRPC's codes correspond to them.
        problem: why, as the caller was told.
        count: how often.
    """

    caller: str
    source: str
    request: str
    status: str
    problem: str
    count: int

    def to_event(self) -> AuditEvent:
        """The row."""
        return AuditEvent(
            actor=self.caller or "unknown",
            source=self.source,
            action="access.refused",
            target=self.request,
            outcome="refused",
            after={"status": int(self.status), "count": self.count},
            message=self.problem or ("the caller's key does not allow it" if self.status == DENIED else ""),
        )


_Key = tuple[str, str, str, str, str]
_OTHERS: _Key = (
    "others",
    "",
    "several",
    UNAUTHENTICATED,
    "refusals of other callers, addresses or paths, all together",
)


class RefusalCounter:
    """Counts an edge's refusals until they are handed on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending: Counter[_Key] = Counter()
        self._rows, self._filled_s = float(BURST_ROWS), clock()

    def count(self, lines: bytes) -> None:
        """Count the refusals among lines of the log."""
        if not any(mark in lines for mark in _MARKS):
            return
        # Counted as bytes first: most of a flood is alike.
        found = Counter(match for match in _REFUSED.findall(lines) if match[0] != b"200" or match[1] in (b"7", b"16"))
        frequent = found.most_common(MAX_PARSED)
        for match, number in frequent:
            self._add(_parse(match), number)
        if others := found.total() - sum(number for _, number in frequent):
            self._add(_OTHERS, others)

    def take(self) -> list[Refusal]:
        """Take what may become rows now, the most frequent first; the rest waits, and goes on being counted."""
        now_s = self._clock()
        self._rows = min(BURST_ROWS, self._rows + (now_s - self._filled_s) * ROWS_PER_S)
        self._filled_s = now_s
        taken = self._pending.most_common(int(self._rows))
        for key, _ in taken:
            del self._pending[key]
        self._rows -= len(taken)
        return [Refusal(*key, count) for key, count in taken]

    def put_back(self, refusals: list[Refusal]) -> None:
        """Keep what could not be handed on."""
        self._rows += len(refusals)
        for each in refusals:
            self._add((each.caller, each.source, each.request, each.status, each.problem), each.count)

    def _add(self, key: _Key, number: int) -> None:
        has_room = key in self._pending or len(self._pending) < MAX_DISTINCT
        self._pending[key if has_room else _OTHERS] += number


@functools.lru_cache(maxsize=256)
def _parse(match: tuple[bytes, ...]) -> _Key:
    status, grpc_status, *strings = match
    caller, source, method, path, problem = (_unquote(each) for each in strings)
    if grpc_status in (b"7", b"16"):
        status, method = (DENIED if grpc_status == b"7" else UNAUTHENTICATED).encode(), "gRPC"
    if not _PATHS.fullmatch(path):
        path = f"/{path[1:].partition('/')[0][:40]}/…"
    return caller, source, f"{method} {path}", status.decode(), problem


def _unquote(content: bytes) -> str:
    """The text of a JSON string; `-` is HAProxy's for none."""
    try:
        text: str = json.loads(b'"%s"' % content)
    except ValueError:
        text = content.decode("utf-8", "replace")
    return "" if text == "-" else text
