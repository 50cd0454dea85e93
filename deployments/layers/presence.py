"""Presence: work that is done for one caller ends when that caller leaves.

Not a layer around every request: watching each short one would cost more than what is saved. A route whose work is
long, or keeps others busy, wraps that work in `while_present`.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from deployments.errors import CallerLeft
from deployments.layers.asgi import Receive

Answer = TypeVar("Answer")


async def while_present(receive: Receive, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Do work, and cancel it when the caller closes the connection.

    Args:
        receive: ASGI's, once the body has been read whole.
        work: what is done; it may take its time to end when it is cancelled.

    Returns:
        What the work returns.

    Raises:
        CallerLeft: the caller closed the connection first.
    """
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise CallerLeft("the caller closed the connection before the answer")
    finally:
        # Also where this task is cancelled itself: a deadline, or a server that stops.
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
