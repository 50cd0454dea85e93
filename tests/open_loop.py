"""Open-loop load: requests are sent at scheduled times, whatever became of those before, and each one is accounted for.

A closed loop waits for an answer before it sends again, so that a slow service slows its callers and hides its queue
(Schroeder, Wierman and Harchol-Balter, "Open Versus Closed: A Cautionary Tale", NSDI 2006). Latency is measured from
the scheduled arrival, not from when a request was sent: a stall then counts for all requests that arrived in it (Tene's
"coordinated omission"; wrk2). What the client itself could not send in time is reported as its send lag.

    arrivals_s = schedule_arrivals([Step(10, 200), Step(5, 2000)], "poisson", seed=1)
    request = encode_request(url, "/v2/models/m/infer", body, {"authorization": f"Bearer {key}"})
    with OpenLoop(url, arrivals_s, request) as load:
        load.wait()                     # or do something else meanwhile; leaving the block stops it
    print(load.outcomes.count(), load.outcomes.summarize(deadline_s=0.1))
"""

import asyncio
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop

from tests.load_outcomes import CONNECT_FAILED, DISCONNECTED, MALFORMED, NO_ANSWER, Outcomes, Times


class Step(NamedTuple):
    """A time at one rate, in seconds and requests per second."""

    duration_s: float
    rate: float


class Response(NamedTuple):
    """What `inspect` gets; header names are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


Inspect = Callable[[int, Response], str | None]
"""Checks the response of the i-th request; what it returns becomes that request's outcome (None: the status)."""


def schedule_arrivals(
    steps: Sequence[Step],
    process: Literal["constant", "poisson", "gamma"] = "poisson",
    *,
    seed: int = 0,
    cv: float = 4.0,
) -> Times:
    """Return times of arrival in seconds, ascending.

    A renewal process of rate 1 is stretched to the rates of the steps (the time-rescaling theorem).

    Args:
        steps: one after the other; a rate may be 0, so that on and off in turn are bursts, too.
        process: equal intervals, exponential ones, or gamma-distributed ones.
        seed: of the intervals.
        cv: coefficient of variation of gamma intervals; 1 is Poisson, more comes in bursts.
    """
    durations_s = np.array([step.duration_s for step in steps])
    rates = np.array([step.rate for step in steps])
    ends = (durations_s * rates).cumsum()
    total = float(ends[-1])
    count = int(total + 10 * (1 + cv) * (total**0.5 + 10))
    generator = np.random.default_rng(seed)
    if process == "constant":
        unit = np.arange(count, dtype=np.float64)
    elif process == "poisson":
        unit = generator.exponential(1.0, count).cumsum()
    else:
        unit = generator.gamma(1 / cv**2, cv**2, count).cumsum()
    unit = unit[unit < total - 1e-9]
    step = np.searchsorted(ends, unit, side="right")
    starts_s = durations_s.cumsum() - durations_s
    starts = ends - durations_s * rates
    return np.asarray(starts_s[step] + (unit - starts[step]) / rates[step])


def encode_request(
    url: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, method: str = "POST"
) -> bytes:
    """Encode one HTTP/1.1 request."""
    fields = {"host": urlsplit(url).netloc, **(headers or {})}
    if body or method == "POST":
        fields["content-length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class OpenLoop:
    """Sends requests on schedule over kept HTTP/1.1 connections, from its own thread; use as a context manager.

    An arrival takes an idle connection, or opens one; at `max_connections` it waits for one, which its latency and
    send lag show. Timers have a resolution of a millisecond, so that sends are up to that late.
    """

    def __init__(
        self,
        url: str,
        arrivals_s: Times,
        request: bytes | Callable[[int], bytes],
        *,
        timeout_s: float = 30.0,
        max_connections: int = 2000,
        inspect: Inspect | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Make a load; it begins with the context.

        Args:
            url: of the server; only host and port are used.
            arrivals_s: when to send, ascending.
            request: encoded; or a function that encodes the i-th, for example with another priority.
            timeout_s: from its scheduled arrival until a request without an answer is `no_answer`.
            max_connections: at most so many at once.
            inspect: checks each response.
            tls: for https.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address, self._tls, self.inspect = (parts.hostname, parts.port), tls, inspect
        self._encode: Callable[[int], bytes] = (lambda _: request) if isinstance(request, bytes) else request
        self._timeout_s, self._max_connections = timeout_s, max_connections
        count = len(arrivals_s)
        self._arrivals_s: list[float] = arrivals_s.tolist()
        self._sent_s, self._finished_s = np.full(count, np.nan), np.full(count, np.nan)
        self._status, self._error = np.zeros(count, np.int64), [""] * count
        self._started_s = 0.0
        self._next = 0
        self._pending = 0
        self._is_stopped = False
        self._inspect_error: BaseException | None = None
        self._backlog: deque[int] = deque()
        self._idle: list[_Connection] = []
        self._connections: set[_Connection] = set()
        self._connects: set[asyncio.Task[None]] = set()
        self._loop = uvloop.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run_loop, name="open loop", daemon=True)

    def __enter__(self) -> Self:
        self._started_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop)
        self.wait()

    def wait(self) -> None:
        """Wait until every scheduled request has an outcome; raises what `inspect` raised."""
        self._thread.join()
        if self._inspect_error is not None:
            raise self._inspect_error

    @property
    def outcomes(self) -> Outcomes:
        """Of every request that was due so far; after the context, of all that were sent."""
        due = self._next
        return Outcomes(
            self._started_s,
            np.array(self._arrivals_s[:due]),
            self._sent_s[:due].copy(),
            self._finished_s[:due].copy(),
            self._status[:due].copy(),
            np.array(self._error[:due], np.str_),
        )

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._drive())

    async def _drive(self) -> None:
        self._send_due()
        await self._end.wait()
        for task in self._connects:
            task.cancel()
        for connection in list(self._connections):
            connection.close()

    def _stop(self) -> None:
        """Send nothing more; what is on its way still gets its outcome."""
        self._is_stopped = True
        self._check_end()

    def _check_end(self) -> None:
        if not self._pending and (self._is_stopped or self._next == len(self._arrivals_s)):
            self._end.set()

    def now_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_s

    def _send_due(self) -> None:
        """Send all that is due, and come back when the next one is."""
        now_s = self.now_s()
        while not self._is_stopped and self._next < len(self._arrivals_s):
            index = self._next
            wait_s = self._arrivals_s[index] - now_s
            if wait_s > 0:
                now_s = self.now_s()  # sending took a while
                wait_s = self._arrivals_s[index] - now_s
            if wait_s > 0:
                self._loop.call_later(wait_s, self._send_due)
                return
            self._next += 1
            self._pending += 1
            self._dispatch(index)
        self._check_end()

    def _dispatch(self, index: int) -> None:
        if self._idle:
            self._idle.pop().send(index, self._encode(index))
        elif len(self._connections) + len(self._connects) < self._max_connections:
            task = self._loop.create_task(self._connect(index))
            self._connects.add(task)
            task.add_done_callback(self._connects.discard)
        else:
            self._backlog.append(index)
            return
        self._sent_s[index] = self.now_s()

    async def _connect(self, index: int) -> None:
        try:
            async with asyncio.timeout(self.remaining_s(index)):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self), *self._address, ssl=self._tls
                )
        except TimeoutError:
            self.finish(index, error=NO_ANSWER)
        except OSError:
            self.finish(index, error=CONNECT_FAILED)
        else:
            connection.send(index, self._encode(index))

    def remaining_s(self, index: int) -> float:
        """Until a request's timeout."""
        return self._arrivals_s[index] + self._timeout_s - self.now_s()

    def finish(self, index: int, *, status: int = 0, error: str = "") -> None:
        """Record a request's outcome."""
        self._finished_s[index], self._status[index], self._error[index] = self.now_s(), status, error
        self._pending -= 1
        self._check_end()

    def check_response(self, index: int, response: Response) -> str:
        """Call `inspect`."""
        assert self.inspect is not None
        try:
            return self.inspect(index, response) or ""
        except BaseException as error:  # raised again by `wait`, in the caller's thread
            self._inspect_error = error
            self._stop()
            return type(error).__name__

    def add(self, connection: "_Connection") -> None:
        """Count an open connection."""
        self._connections.add(connection)

    def release(self, connection: "_Connection") -> None:
        """Give a free connection to the request that has waited longest."""
        self._idle.append(connection)
        self._dispatch_backlog()

    def remove(self, connection: "_Connection") -> None:
        """Forget a closed connection; one that waits for a connection may open another."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._dispatch_backlog()

    def _dispatch_backlog(self) -> None:
        """Send the request that has waited longest for a connection, of those that are not too late."""
        while self._backlog:
            index = self._backlog.popleft()
            if self.remaining_s(index) > 0:
                self._dispatch(index)
                return
            self.finish(index, error=NO_ANSWER)


class _Connection(asyncio.Protocol):
    """One connection with at most one request."""

    def __init__(self, load: OpenLoop) -> None:
        self._load = load
        self._index: int | None = None
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        if load.inspect is not None:
            # The parser calls only what it finds when it is made.
            self.on_header, self.on_body = self._keep_header, self._body.append
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._load.add(self)

    def send(self, index: int, request: bytes) -> None:
        self._index = index
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(self._load.remaining_s(index), 0), self._give_up)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(MALFORMED)

    def _keep_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # 100 Continue
        if self._index is None:
            self._transport.abort()  # a response that nobody asked for
            return
        error = ""
        if self._load.inspect is not None:
            response = Response(status, dict(self._headers), b"".join(self._body))
            error = self._load.check_response(self._index, response)
            self._headers.clear()
            self._body.clear()
        self._finish(status, error)
        if self._parser.should_keep_alive():
            self._load.release(self)
        else:
            self.close()

    def _finish(self, status: int, error: str) -> None:
        assert self._timer is not None
        assert self._index is not None
        self._timer.cancel()
        index, self._index = self._index, None
        self._load.finish(index, status=status, error=error)

    def _give_up(self) -> None:
        self._fail(NO_ANSWER)

    def _fail(self, error: str) -> None:
        if self._index is not None:
            self._finish(0, error)
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._index is not None:
            self._finish(0, DISCONNECTED)
        self._load.remove(self)

    def close(self) -> None:
        self._transport.close()
