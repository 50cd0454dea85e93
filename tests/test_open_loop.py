"""The open-loop client against a real server that is slow, stalls, refuses, breaks off, or is not there."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest

from tests.load_outcomes import CONNECT_FAILED, DISCONNECTED, MALFORMED, NO_ANSWER
from tests.open_loop import OpenLoop, Response, Step, encode_request, schedule_arrivals

Answer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nx-number: %d\r\ncontent-length: 2\r\n\r\nok"


@contextlib.contextmanager
def run_answers(answer: Answer) -> Iterator[str]:
    """Serve: the n-th request is answered by `answer`; yields the URL."""
    loop, numbers = asyncio.new_event_loop(), iter(range(10**9))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await answer(next(numbers), writer)
        writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


async def answer_ok(number: int, writer: asyncio.StreamWriter) -> None:
    writer.write(OK % number)


def get(url: str) -> bytes:
    return encode_request(url, "/", method="GET")


def test_arrivals_have_the_rates_of_their_steps_and_the_variation_of_their_process() -> None:
    steps = [Step(100, 50), Step(50, 0), Step(10, 1000)]

    constant, poisson, bursty = (
        schedule_arrivals(steps, process, seed=3) for process in ("constant", "poisson", "gamma")
    )

    assert len(constant) == 15_000
    assert np.allclose(np.diff(constant[:5000]), 1 / 50)
    for arrivals_s, cv in ((poisson, 1), (bursty, 4)):
        intervals_s = np.diff(arrivals_s)
        assert (intervals_s >= 0).all()
        assert (arrivals_s < 100).sum() == pytest.approx(5000, rel=0.1 * cv)
        assert ((arrivals_s > 100) & (arrivals_s < 150)).sum() == 0
        assert (arrivals_s >= 150).sum() == pytest.approx(10_000, rel=0.1 * cv)
        assert arrivals_s[-1] < 160
        fast = np.diff(arrivals_s[arrivals_s >= 150])
        assert fast.std() / fast.mean() == pytest.approx(cv, rel=0.2)
    assert np.array_equal(poisson, schedule_arrivals(steps, "poisson", seed=3))
    assert not np.array_equal(poisson[:9], schedule_arrivals(steps, "poisson", seed=4)[:9])


def test_a_stall_counts_for_every_request_that_arrived_in_it() -> None:
    stalled_until = 0.0

    async def stall(number: int, writer: asyncio.StreamWriter) -> None:
        nonlocal stalled_until
        if number == 20:
            stalled_until = time.monotonic() + 0.4
        time.sleep(max(stalled_until - time.monotonic(), 0))  # the whole server stands still
        writer.write(OK % number)

    with run_answers(stall) as url, OpenLoop(url, schedule_arrivals([Step(0.8, 100)], "constant"), get(url)) as load:
        load.wait()

    outcomes = load.outcomes
    assert outcomes.count() == {"200": 80}
    # 40 requests arrived in the 0.4 s, at even distances; a closed loop would have seen one slow answer.
    least_s = 0.4 - 0.01 * np.arange(40)
    assert (outcomes.latency_s[20:60] > least_s - 0.002).all()
    assert np.median(outcomes.latency_s[20:60] - least_s) < 0.2
    assert outcomes.summarize()["send_lag_p99_s"] < 0.2
    assert [row["requests"] for row in outcomes.timeline(0.25)] == [25, 25, 25, 5]


def test_a_client_without_a_free_connection_reports_its_lag() -> None:
    async def slow(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(OK % number)

    arrivals_s = schedule_arrivals([Step(0.2, 100)], "constant")
    with run_answers(slow) as url, OpenLoop(url, arrivals_s, get(url), max_connections=1) as load:
        load.wait()

    summary = load.outcomes.summarize(deadline_s=0.2)
    assert summary["outcomes"] == {"200": 20}
    assert summary["send_lag_max_s"] > 0.6
    assert summary["p99_s"] > 0.6
    assert summary["goodput_per_s"] < 50


def test_each_request_has_its_outcome() -> None:
    release = time.monotonic() + 0.5

    async def misbehave(number: int, writer: asyncio.StreamWriter) -> None:
        if number % 5 == 0:
            writer.write(OK % number)
        elif number % 5 == 1:
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n")
        elif number % 5 == 2:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nha")
            writer.close()
        elif number % 5 == 3:
            writer.write(b"SMTP ready\r\n\r\n")
        else:
            await asyncio.sleep(max(release - time.monotonic(), 0.5))

    with (
        run_answers(misbehave) as url,
        OpenLoop(url, schedule_arrivals([Step(0.5, 100)], "constant"), get(url), timeout_s=0.3) as load,
    ):
        load.wait()

    counts = load.outcomes.count()
    assert sum(counts.values()) == len(load.outcomes) == 50
    # A request that comes at once with another may take the place of that one.
    assert set(counts) == {"200", "429", DISCONNECTED, MALFORMED, NO_ANSWER}
    assert all(8 <= count <= 12 for count in counts.values())
    assert load.outcomes.is_ok.sum() == counts["200"]


def test_a_server_that_is_not_there_fails_requests_until_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"

    with OpenLoop(url, schedule_arrivals([Step(0.1, 100)]), get(url)) as load:
        load.wait()

    assert load.outcomes.count() == {CONNECT_FAILED: len(load.outcomes)}


def test_responses_are_inspected_by_request() -> None:
    seen: dict[int, Response] = {}

    def inspect(index: int, response: Response) -> str | None:
        seen[index] = response
        return "odd" if index % 2 else None

    with run_answers(answer_ok) as url:
        requests = [encode_request(url, f"/{index}", b"body", {"x-request-priority": "batch"}) for index in range(10)]
        arrivals_s = schedule_arrivals([Step(0.1, 100)], "constant")
        with OpenLoop(url, arrivals_s, requests.__getitem__, inspect=inspect) as load:
            load.wait()

    assert load.outcomes.count() == {"200": 5, "odd": 5}
    assert sorted(seen) == list(range(10))
    assert {response.body for response in seen.values()} == {b"ok"}
    assert sorted(int(response.headers[b"x-number"]) for response in seen.values()) == list(range(10))
    assert b"x-request-priority: batch\r\ncontent-length: 4\r\n\r\nbody" in requests[0]


def test_an_error_of_the_inspection_reaches_the_test() -> None:
    def inspect(index: int, response: Response) -> str | None:
        raise ValueError(f"response {index}")

    with run_answers(answer_ok) as url:
        load = OpenLoop(url, schedule_arrivals([Step(1, 100)], "constant"), get(url), inspect=inspect)
        with pytest.raises(ValueError, match="response"), load:
            load.wait()


def test_leaving_the_context_ends_the_load_and_waits_for_what_is_on_its_way() -> None:
    async def slow(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(OK % number)

    with run_answers(slow) as url, OpenLoop(url, schedule_arrivals([Step(60, 100)]), get(url)) as load:
        time.sleep(0.3)
        pending = load.outcomes.count()["pending"]

    assert pending > 0
    assert 10 < len(load.outcomes) < 100
    assert load.outcomes.count() == {"200": len(load.outcomes)}


def test_thousands_a_second_are_sent_on_time() -> None:
    """On one core, beside the server in this process."""
    with run_answers(answer_ok) as url:
        start_s = time.process_time()
        with OpenLoop(url, schedule_arrivals([Step(0.5, 2000)], seed=1), get(url)) as load:
            load.wait()
        cpu_s = time.process_time() - start_s

    outcomes = load.outcomes
    assert outcomes.count() == {"200": len(outcomes)}
    assert 850 < len(outcomes) < 1150
    assert cpu_s / len(outcomes) < 1e-3
