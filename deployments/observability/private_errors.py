"""Private errors: an internal error as a log may have it, by its classes and places.

Messages of exceptions quote values (`could not convert string to float: '...'`), which may be a caller's. What a caller
gets of a ClientError is never logged; of any other error only this is.
"""

import traceback
from collections.abc import Iterator

HIDDEN = "(message not logged: it may quote the caller's values)"


def describe_error(error: BaseException) -> str:
    """Describe an error and its causes like a traceback, without their messages and lines of code."""
    return "\n".join(line for each in reversed(list(_list_chain(error))) for line in _describe_one(each))


def _list_chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        hidden = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or hidden


def _describe_one(error: BaseException) -> Iterator[str]:
    for frame in traceback.extract_tb(error.__traceback__, limit=-20):
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
    yield f"{type(error).__module__}.{type(error).__qualname__} {HIDDEN}"
