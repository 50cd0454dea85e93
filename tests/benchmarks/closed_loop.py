"""Closed loop: a number of connections that can be changed while each sends one request after the other.

Every request is accounted for: with its status, or why it has none.
"""

import asyncio
import threading
import time
from typing import NamedTuple, Self
from urllib.parse import urlsplit

CONNECT_TIMEOUT_S = 10.0


class Sample(NamedTuple):
    """One request: when it ended on time.monotonic()'s clock, how long it took, and a status or an exception's name."""

    ended_s: float
    latency_s: float
    outcome: str


class ClosedLoop:
    """Keeps connections busy from a thread of its own; use as a context manager, which stops it."""

    def __init__(self, url: str, request: bytes) -> None:
        parts = urlsplit(url)
        self._address, self._request = (parts.hostname, parts.port), request
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._wanted = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._set_connections(0), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def set_connections(self, count: int) -> None:
        """Change the number of connections; one that ends has its last answer first."""
        asyncio.run_coroutine_threadsafe(self._set_connections(count), self._loop).result()

    async def _set_connections(self, count: int) -> None:
        self._wanted = count
        ending, self._tasks = self._tasks[count:], self._tasks[:count]
        self._tasks += [asyncio.create_task(self._run(index)) for index in range(len(self._tasks), count)]
        await asyncio.gather(*ending)

    async def _run(self, index: int) -> None:
        writer: asyncio.StreamWriter | None = None
        while index < self._wanted:
            started_s = time.monotonic()
            try:
                if writer is None:
                    async with asyncio.timeout(CONNECT_TIMEOUT_S):
                        reader, writer = await asyncio.open_connection(*self._address)
                writer.write(self._request)
                outcome, is_kept = await _read_response(reader)
            except (OSError, EOFError, TimeoutError) as error:
                outcome, is_kept = type(error).__name__, False
            now_s = time.monotonic()
            self.samples.append(Sample(now_s, now_s - started_s, outcome))
            if not is_kept and writer is not None:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()


async def _read_response(reader: asyncio.StreamReader) -> tuple[str, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    lines = head.split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
    await reader.readexactly(int(fields.get(b"content-length", b"0")))
    return lines[0].split()[1].decode(), fields.get(b"connection") != b"close"
