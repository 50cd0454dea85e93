"""One request on its way through a pipeline: its rows, what it may still take, and how a model is asked.

Rows and predictions stay the JSON that they came as until a node has to look into them.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from deployments.errors import ClientError, MalformedBody

Raw = msgspec.Raw

ModelCall = Callable[[str, bytes, str | None, float], Awaitable[tuple[int, bytes]]]
"""Asks a deployed model: its name, a `predict` body, the request's id, seconds to answer in; gives status and body.

Raises:
    TimeoutError: it did not answer in that time.
    ClientError: there is nobody to ask.
"""

ALL_LABELS = 2**31


class NodeError(ClientError):
    """A step's error, as the pipeline's own: its status and code, and where it happened."""

    def __init__(self, path: str, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.args = (path, status, code, message)
        self.status, self.code, self.message = status, code, f"{path}: {message}"
        self.headers = ((b"retry-after", b"1"),) if status == 503 else ()


@dataclass(frozen=True)
class RequestContext:
    """What all steps of one request share.

    Attributes:
        ask: how a model is asked.
        deadline_s: when the request is given up, in the event loop's time.
        request_id: as the caller sent it, for every step's log.
    """

    call_model: ModelCall
    deadline_s: float
    request_id: str | None = None

    def remaining_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline_s - asyncio.get_running_loop().time()


@dataclass(frozen=True)
class RowBatch:
    """Rows for one node.

    Attributes:
        rows: JSON, one for each.
        places: of each, its number in the request, so that a message can name it.
    """

    rows: list[Raw]
    row_numbers: list[int] = field(default_factory=list)

    def select(self, indexes: Iterable[int]) -> "RowBatch":
        """Some of the rows."""
        chosen = list(indexes)
        return RowBatch([self.rows[i] for i in chosen], [self.row_numbers[i] for i in chosen])

    def renumber(self, message: str) -> str:
        """A step's message, with the row's number in the request where it begins with the one that the step saw."""

        def place(found: re.Match[str]) -> str:
            index = int(found[1])
            return f"row {self.row_numbers[index]}" if index < len(self.row_numbers) else found[0]

        return re.sub(r"^row (\d+)", place, message)


def decode_json(raw: Raw) -> Any:
    """Look into a row or a prediction.

    Raises:
        MalformedBody: it is nested too deeply, or no UTF-8.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedBody(f"a row is no JSON: {said}") from None


def encode_json(content: Any) -> Raw:
    """Write a row or a prediction."""
    return Raw(msgspec.json.encode(content))


async def run_concurrently(works: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Do all at once; the first that fails ends the others, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
