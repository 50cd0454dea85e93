"""One request on its way through a pipeline: its rows, its deadline, and the function that calls a model.

Rows and predictions stay undecoded JSON until a node reads them.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from deployments.errors import ClientError, MalformedBody
from deployments.pipelines.crops import CropBudget
from deployments.protocols.arrays import describe_json_error
from deployments.server.scheduling import INTERACTIVE
from deployments.server.served import OnServed, Served

Raw = msgspec.Raw

ModelCall = Callable[[str, bytes, str | None, float, int, OnServed], Awaitable[bytes]]
"""Calls a deployed model: name, body of a `predict` request, request id, time limit in seconds, priority, who is told
what has computed it; to body of the response.

Raises:
    TimeoutError: no response in that time.
    CallError: the model refuses the request, or no replica responds.
"""

TraceNode = Callable[[str, str], AbstractContextManager[Any]]
"""Makes a span around a node's call, of its path and its model's name."""

ALL_LABELS = 2**31
"""A `top_k` that no model's labels reach."""


class NodeError(ClientError):
    """A node's error as the pipeline's: status, code and headers of the node's, and its path in the message."""

    def __init__(
        self, path: str, status: int, code: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(message)
        self.args = (path, status, code, message, headers)
        self.status, self.code, self.message = status, code, f"{path}: {message}"
        self.headers = headers


@dataclass(frozen=True)
class RequestContext:
    """What the nodes share during one request.

    Attributes:
        call_model: calls a deployed model.
        deadline_s: end of the request's time limit, on the event loop's clock.
        crop_budget: what may be cropped from the request's images.
        request_id: as the caller sent it, for the log of each node's model.
        priority: of the request; see Scheduling.
        trace_node: None where tracing is off.
        nodes: NAME:VERSION of what has answered so far.
    """

    call_model: ModelCall
    deadline_s: float
    crop_budget: CropBudget
    request_id: str | None = None
    priority: int = INTERACTIVE
    trace_node: TraceNode | None = None
    nodes: set[str] = field(default_factory=set)

    def add_node(self, served: Served) -> None:
        """Keep what has answered for a node."""
        self.nodes.update(served.list_nodes())

    def remaining_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline_s - asyncio.get_running_loop().time()


@dataclass(frozen=True)
class RowBatch:
    """Rows for one node.

    Attributes:
        rows: JSON of each.
        row_numbers: number of each in the request, for messages.
    """

    rows: list[Raw]
    row_numbers: list[int] = field(default_factory=list)

    def select(self, indexes: Iterable[int]) -> "RowBatch":
        """Select rows by index."""
        selected = list(indexes)
        return RowBatch([self.rows[i] for i in selected], [self.row_numbers[i] for i in selected])

    def renumber(self, message: str) -> str:
        """Replace the batch's row number at the beginning of a model's message by the request's."""

        def replace(match: re.Match[str]) -> str:
            index = int(match[1])
            return f"row {self.row_numbers[index]}" if index < len(self.row_numbers) else match[0]

        return re.sub(r"^row (\d+)", replace, message)


def decode_json(raw: Raw) -> Any:
    """Decode a row or a prediction.

    Raises:
        MalformedBody: it is nested too deeply, or not UTF-8.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedBody(f"a row is not valid JSON: {describe_json_error(error, raw)}") from None


def encode_json(value: Any) -> Raw:
    """Encode a row or a prediction."""
    return Raw(msgspec.json.encode(value))


async def run_concurrently(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run coroutines concurrently; the first that fails cancels the others, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
