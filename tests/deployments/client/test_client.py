"""The Python client against a real HTTP server: what it sends, reads, retries and raises."""

import asyncio
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from deployments import errors
from deployments.client import AsyncClient, CallError, Client, ConnectionFailed, ProtocolError, ResponseTimeout
from deployments.client.core import INITIAL_BACKOFF_S, MAX_BACKOFF_S, backoff_s
from deployments.server.asgi import AsgiApp, Scope
from tests.deployments.local_server import Headers, Reply, make_app, run_server
from training.errors import UserError

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
METADATA = {
    "name": "double",
    "versions": ["1"],
    "platform": "pytorch_export",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
}


def double(path: str, body: bytes, scope: Scope) -> Reply:
    """A model that doubles x: the Open Inference Protocol in JSON, and with bytes behind it."""
    if path == "/v2/models/double":
        return 200, json.dumps(METADATA).encode(), []
    header_length = dict(scope["headers"]).get(b"inference-header-content-length", b"")
    request = json.loads(body[: int(header_length)] if header_length else body)
    (tensor,) = request["inputs"]
    if header_length:
        assert tensor["parameters"]["binary_data_size"] == len(body) - int(header_length)
        x = np.frombuffer(body[int(header_length) :], "<f4")
    else:
        x = np.array(tensor["data"], np.float32)
    output_is_binary = request.get("outputs", [{}])[0].get("parameters", {}).get("binary_data")
    output: dict[str, Any] = {"name": "y", "shape": tensor["shape"], "datatype": "FP32"}
    response = {"model_name": "double", "model_version": "1", "outputs": [output]}
    if not (output_is_binary or request.get("parameters", {}).get("binary_data_output")):
        output["data"] = (x * 2).tolist()
        return 200, json.dumps(response).encode(), []
    content = (x * 2).astype("<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(content)}
    header = json.dumps(response).encode()
    return 200, header + content, [(b"inference-header-content-length", b"%d" % len(header))]


@pytest.fixture
def client() -> Iterator[Client]:
    with run_server(make_app(double)) as url, Client(url, "k") as client:
        yield client


def test_importing_the_client_imports_neither_ray_nor_torch() -> None:
    code = "import sys, deployments.client; print({'ray', 'torch', 'fastapi', 'pydantic'} & sys.modules.keys())"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("outputs", [None, ["y"]])
def test_arrays_go_in_and_come_out(client: Client, binary: bool, outputs: list[str] | None) -> None:
    array = client.infer("double", ROWS, outputs=outputs, binary=binary)
    arrays = client.infer("double", {"x": ROWS}, outputs=outputs, binary=binary)

    assert array.dtype == np.float32
    assert np.array_equal(array, ROWS * 2)
    assert arrays.keys() == {"y"}
    assert np.array_equal(arrays["y"], ROWS * 2)


def test_lists_and_wider_numbers_are_cast_to_what_the_model_takes(client: Client) -> None:
    assert np.array_equal(client.infer("double", ROWS.astype(np.float64).tolist()), ROWS * 2)
    assert np.array_equal(client.infer("double", ROWS[:, ::-1].astype(np.int32)), ROWS[:, ::-1] * 2)


async def double_async(url: str) -> tuple[Any, Any]:
    async with AsyncClient(url, "k") as client:
        concurrent = await asyncio.gather(*(client.infer("double", ROWS + n) for n in range(20)))
        return concurrent, await client.infer("double", {"x": ROWS}, binary=False)


def test_the_async_client_does_the_same_with_concurrent_calls() -> None:
    with run_server(make_app(double)) as url:
        concurrent, arrays = asyncio.run(double_async(url))

    assert all(np.array_equal(y, (ROWS + n) * 2) for n, y in enumerate(concurrent))
    assert np.array_equal(arrays["y"], ROWS * 2)


def test_threads_may_share_a_client_and_get_their_own_responses(client: Client) -> None:
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(20):
            if not np.array_equal(client.infer("double", ROWS + number), (ROWS + number) * 2):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_connections_are_reused() -> None:
    ports = set()

    def handle(path: str, body: bytes, scope: Scope) -> Reply:
        ports.add(scope["client"][1])
        return double(path, body, scope)

    with run_server(make_app(handle)) as url, Client(url, "k") as client:
        for _ in range(10):
            client.infer("double", ROWS)
    assert len(ports) == 1


def make_failing_app(statuses: list[int], headers: Headers = []) -> tuple[AsgiApp, list[float]]:  # noqa: B006
    """A server that responds with these statuses in turn, and then with 200; and the times of its requests."""
    times_s: list[float] = []
    remaining = iter(statuses)

    def handle(path: str, body: bytes, scope: Scope) -> Reply:
        times_s.append(time.monotonic())
        status = next(remaining, 200)
        if status == 200:
            return 200, b'{"predictions": [{"label": "a"}]}', []
        return status, errors.encode_error("queue_full", "full", "r7"), headers

    return make_app(handle), times_s


@pytest.mark.parametrize("status", [429, 503])
def test_a_service_that_is_too_busy_is_called_again(status: int) -> None:
    app, times_s = make_failing_app([status, status])
    with run_server(app) as url, Client(url, "k") as client:
        assert client.predict("m", [1]) == [{"label": "a"}]

    assert len(times_s) == 3
    assert times_s[1] - times_s[0] >= INITIAL_BACKOFF_S / 2
    assert times_s[2] - times_s[1] >= INITIAL_BACKOFF_S


def test_retry_after_is_honored() -> None:
    app, times_s = make_failing_app([503], [(b"retry-after", b"0.5")])
    with run_server(app) as url, Client(url, "k") as client:
        client.predict("m", [1])

    assert times_s[1] - times_s[0] >= 0.5


def test_retries_end_and_do_not_outlast_the_timeout() -> None:
    app, times_s = make_failing_app([503] * 100)
    with run_server(app) as url:
        with Client(url, "k", retries=1) as client, pytest.raises(errors.QueueFull) as caught:
            client.predict("m", [1])
        assert len(times_s) == 2
        start = time.monotonic()
        with Client(url, "k", retries=50, timeout=0.5) as client, pytest.raises(errors.QueueFull):
            client.predict("m", [1])
    # Fifty retries would take minutes.
    assert time.monotonic() - start < 3.0
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (503, "queue_full", "r7")


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 504])
def test_no_other_status_is_retried(status: int) -> None:
    app, times_s = make_failing_app([status])
    with run_server(app) as url, Client(url, "k") as client, pytest.raises(CallError):
        client.predict("m", [1])

    assert len(times_s) == 1


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"models": 1, "predictions": {}}', b"\xff", b"[" * 99999]
)
def test_a_response_that_is_not_shoals_is_said_to_be_none(body: bytes) -> None:
    app = make_app(lambda path, request, scope: (200, body, []))
    with run_server(app) as url, Client(url, "k") as client:
        calls: list[Callable[[], Any]] = [
            client.models,
            lambda: client.predict("m", [1]),
            lambda: client.ready("m"),
            lambda: client.infer("m", [1.0]),
            lambda: client.infer("m", {"x": [1.0]}),
        ]
        for call in calls:
            with pytest.raises(errors.ProtocolError, match="response"):
                call()


def test_backoff_doubles_with_jitter() -> None:
    for attempt, retry_after_s in itertools.product(range(12), (None, 1.0)):
        waits_s = [backoff_s(attempt, retry_after_s) - (retry_after_s or 0) for _ in range(100)]
        max_s = min(INITIAL_BACKOFF_S * 2**attempt, MAX_BACKOFF_S)
        assert max_s / 2 <= min(waits_s) < max(waits_s) <= max_s


class SocketServer:
    """A server of bare sockets that calls one function for each connection, in turn."""

    def __init__(self, *handlers: Callable[[socket.socket], None]) -> None:
        self.listener, self.accepted = socket.create_server(("127.0.0.1", 0)), 0
        self.handlers = handlers
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        for handler in self.handlers:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # the test is over
                return
            self.accepted += 1
            with connection:
                handler(connection)

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def close_at_once(connection: socket.socket) -> None:
    connection.recv(65536)


def respond(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\n{"predictions": [1]')
    connection.sendall(b"}")


def respond_partly(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{"predi')


def respond_never(connection: socket.socket) -> None:
    connection.recv(65536)
    time.sleep(1.0)


def test_a_connection_that_closes_before_the_response_is_retried() -> None:
    server = SocketServer(close_at_once, close_at_once, respond_partly)
    with server as url, Client(url, "k") as client, pytest.raises(ProtocolError):
        client.predict("m", [1])

    # A response that has begun is not requested again.
    assert server.accepted == 3


def test_no_connection_is_its_own_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", "k", retries=1) as client, pytest.raises(ConnectionFailed, match=str(port)):
        client.ready("m")


def test_the_service_is_told_how_long_a_call_has_and_what_goes_first() -> None:
    seen: list[dict[bytes, bytes]] = []

    def handle(path: str, body: bytes, scope: Scope) -> Reply:
        seen.append(dict(scope["headers"]))
        if len(seen) == 3:
            return 503, errors.encode_error("queue_full", "full", "r7"), [(b"retry-after", b"1")]
        return 200, b'{"predictions": [{"label": "a"}]}', []

    with run_server(make_app(handle)) as url:
        with Client(url, "k") as client:
            client.predict("m", [1])
        with Client(url, "k", timeout=2, priority="batch") as client:
            client.predict("m", [1])
            # The second attempt has what the first has left.
            client.predict("m", [1])

    timeouts = [headers.get(b"x-request-timeout-seconds") for headers in seen]
    priorities = [headers.get(b"x-request-priority") for headers in seen]
    assert timeouts[0] is None
    assert [round(float(timeout or 0)) for timeout in timeouts[1:]] == [2, 2, 1]
    assert priorities == [None, b"batch", b"batch", b"batch"]
    with pytest.raises(UserError, match="priority='soon'; it is interactive"):
        Client("http://127.0.0.1", "k", priority="soon")


def test_no_response_ends_with_the_timeout_and_is_not_retried() -> None:
    server = SocketServer(respond_never, respond)
    start = time.monotonic()
    with server as url, Client(url, "k", timeout=0.2) as client, pytest.raises(ResponseTimeout, match=r"within 0\.2 s"):
        client.predict("m", [1])

    assert time.monotonic() - start < 0.9
    assert server.accepted == 1


@pytest.mark.parametrize(("timeout", "retries"), [(0, 1), (-1, 1), (1, -1)])
def test_numbers_out_of_range_are_refused(timeout: float, retries: int) -> None:
    with pytest.raises(UserError, match="timeout"):
        Client("http://127.0.0.1", "k", timeout=timeout, retries=retries)


def test_predict_sends_the_json_form_of_the_task() -> None:
    requests: list[tuple[str, bytes, bytes]] = []

    def handle(path: str, body: bytes, scope: Scope) -> Reply:
        requests.append((path, dict(scope["headers"])[b"content-type"], body))
        return 200, b'{"predictions": []}', []

    png = b"\x89PNG\r\n"
    with run_server(make_app(handle)) as url, Client(url, "k") as client:
        client.predict("m", ["很好"], top_k=2)
        client.predict("m", np.ones((1, 2)), version=3)
        client.predict("a/b", [{"w": np.float32(0.5)}])
        client.predict("m", png)
        client.predict("m", png, min_score=0.5)
        client.predict("m", [png])
        with pytest.raises(TypeError, match="send a list"):
            client.predict("m", "one text")  # type: ignore[arg-type]

    paths, content_types, bodies = zip(*requests, strict=True)
    assert paths == tuple(f"/v2/models/{path}/predict" for path in ("m", "m/versions/3", "a/b", "m", "m", "m"))
    assert [json.loads(body) for body in (*bodies[:3], *bodies[4:])] == [
        {"inputs": ["很好"], "top_k": 2},
        {"inputs": [[1.0, 1.0]]},
        {"inputs": [{"w": 0.5}]},
        {"inputs": ["iVBORw0K"], "min_score": 0.5},
        {"inputs": ["iVBORw0K"]},
    ]
    assert (content_types[3], bodies[3]) == (b"image/png", png)


STREAM = (
    b'event: token\ndata: {"row": 0, "text": "a\xe2\x80\xa8"}\n\n: keep-alive\n\n'
    b'event: token\ndata: {"row": 0, "text": "b"}\n\n'
)
DONE = b'event: done\ndata: {"predictions": [{"text": "a\xe2\x80\xa8b"}]}\n\n'


def make_streaming_app(events: bytes) -> AsgiApp:
    def handle(path: str, body: bytes, scope: Scope) -> Reply:
        assert json.loads(body)["stream"] is True
        return 200, events, [(b"content-type", b"text/event-stream; charset=utf-8")]

    return make_app(handle)


async def stream_async(url: str) -> tuple[list[str], Any]:
    async with AsyncClient(url, "k") as client, await client.stream("m", ["x"]) as stream:
        return [chunk.text async for chunk in stream], stream.predictions


def test_a_stream_yields_chunks_and_then_has_the_predictions() -> None:
    with run_server(make_streaming_app(STREAM + DONE)) as url:
        with Client(url, "k") as client:
            stream = client.stream("m", ["x"])
            texts = [chunk.text for chunk in stream]
        async_texts, predictions = asyncio.run(stream_async(url))

    # A line separator (U+2028) ends no line of an event stream.
    assert texts == async_texts == ["a\u2028", "b"]
    assert stream.predictions == predictions == [{"text": "a\u2028b"}]


def test_a_stream_that_ends_early_or_fails_raises() -> None:
    error = b"event: error\ndata: " + errors.encode_error("deadline_exceeded", "too long", "r1") + b"\n\n"
    with run_server(make_streaming_app(STREAM)) as url, Client(url, "k") as client, pytest.raises(ProtocolError):
        list(client.stream("m", ["x"]))
    with run_server(make_streaming_app(STREAM + error)) as url, Client(url, "k") as client:
        stream = client.stream("m", ["x"])
        with pytest.raises(errors.DeadlineExceeded, match="too long") as caught:
            list(stream)
    assert (caught.value.status, caught.value.request_id) == (504, "r1")


def test_a_stream_that_is_refused_raises_at_once() -> None:
    app, _ = make_failing_app([406])
    with run_server(app) as url, Client(url, "k") as client, pytest.raises(CallError) as caught:
        client.stream("m", ["x"])
    assert caught.value.status == 406
