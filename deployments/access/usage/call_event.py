"""Call event: the unique id of one request, by which it is counted once, however often it is sent.

Request walk: request_usage.py -> [call_event.py]
The edge makes the id, not the caller: who repeats ids of his own must not evade the bill, and HAProxy resends what a
dead replica did not answer with the same id. Calls by handles take it along. A pipeline's request is counted at the
pipeline, and what its nodes compute as events of another kind, so that requests are counted once and compute where it
happens.
"""

import binascii
import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from contextvars import ContextVar
from enum import IntEnum
from typing import NamedTuple

ID_BYTES = 16

HEADER = b"x-shoal-event"
"""Set by the edge, and by nobody else: it deletes what a caller sent under this name."""


class Kind(IntEnum):
    """What is counted."""

    REQUEST = 0
    """A caller's request."""
    NODE = 1
    """A call of a pipeline's node: rows and compute of a request that is counted at the pipeline."""
    INTERNAL = 2
    """A request of Shoal's own, such as a copy for a canary: nobody pays for it, but it computes."""


_REQUEST, _unhexlify, _make = Kind.REQUEST, binascii.unhexlify, tuple.__new__


class CallEvent(NamedTuple):
    """One request.

    Attributes:
        id: of ID_BYTES.
        kind: of it.
        request_id: the caller's own, or the edge's, where the request comes by a handle.
    """

    id: bytes
    kind: Kind = Kind.REQUEST
    request_id: bytes = b""

    def derive(self, part: str, kind: Kind | None = None) -> "CallEvent":
        """The event of a part of this one; the same for each attempt."""
        digest = hashlib.blake2b(self.id + part.encode(), digest_size=ID_BYTES).digest()
        return CallEvent(digest, self.kind if kind is None else kind, self.request_id)


CURRENT_EVENT: ContextVar[CallEvent | None] = ContextVar("call_event", default=None)
"""What calls by handles take along."""


def parse_event(value: bytes) -> CallEvent:
    """Parse the edge's header, a UUID; what has none did not come from a caller."""
    try:
        event_id = _unhexlify(value.replace(b"-", b""))
    except ValueError:
        return new_internal_event()
    # A third of the time of its own constructor, for each request.
    return _make(CallEvent, (event_id, _REQUEST, b"")) if len(event_id) == ID_BYTES else new_internal_event()


def new_internal_event() -> CallEvent:
    """The event of what Shoal itself sends."""
    return CallEvent(secrets.token_bytes(ID_BYTES), Kind.INTERNAL)


@contextlib.contextmanager
def node_event(path: str) -> Iterator[None]:
    """Within the block, calls by handles are those of a pipeline's node."""
    event = CURRENT_EVENT.get()
    if event is None:
        yield
        return
    kind = Kind.INTERNAL if event.kind is Kind.INTERNAL else Kind.NODE
    token = CURRENT_EVENT.set(event.derive(path, kind))
    try:
        yield
    finally:
        CURRENT_EVENT.reset(token)
