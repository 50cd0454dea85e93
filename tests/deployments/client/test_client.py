"""The Python client against a real HTTP server: what it sends, reads, retries and raises."""

import asyncio
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments import errors
from deployments.client import AsyncClient, CallError, Client, ConnectionFailed, ProtocolError, ResponseTimeout
from deployments.client.core import FIRST_WAIT_S, LONGEST_WAIT_S, backoff_s
from deployments.server.asgi import App, Receive, Scope, Send, get_header
from tests.deployments.local_server import serving
from training.errors import UserError

Headers = list[tuple[bytes, bytes]]
Reply = tuple[int, bytes, Headers]
Answerer = Callable[[str, bytes, Scope], Reply | Awaitable[Reply]]

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
METADATA = {
    "name": "double",
    "versions": ["1"],
    "platform": "pytorch_export",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
}


def served(answer: Answerer) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        found = answer(scope["path"], body, scope)
        status, said, headers = found if isinstance(found, tuple) else await found
        headers = [*headers, (b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": said})

    return app


def double(path: str, body: bytes, scope: Scope) -> Reply:
    """A model that doubles x, by the words of the protocol: JSON, and values as bytes behind it."""
    if path == "/v2/models/double":
        return 200, json.dumps(METADATA).encode(), []
    length = get_header(scope, b"inference-header-content-length")
    head = json.loads(body[: int(length)] if length else body)
    (sent,) = head["inputs"]
    if length:
        assert sent["parameters"]["binary_data_size"] == len(body) - int(length)
        x = np.frombuffer(body[int(length) :], "<f4")
    else:
        x = np.array(sent["data"], np.float32)
    named = head.get("outputs", [{}])[0].get("parameters", {}).get("binary_data")
    output: dict[str, Any] = {"name": "y", "shape": sent["shape"], "datatype": "FP32"}
    answer = {"model_name": "double", "model_version": "1", "outputs": [output]}
    if not (named or head.get("parameters", {}).get("binary_data_output")):
        output["data"] = (x * 2).tolist()
        return 200, json.dumps(answer).encode(), []
    raw = (x * 2).astype("<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(raw)}
    said = json.dumps(answer).encode()
    return 200, said + raw, [(b"inference-header-content-length", b"%d" % len(said))]


@pytest.fixture
def doubling() -> Iterator[Client]:
    with serving(served(double)) as url, Client(url, "k") as client:
        yield client


def test_importing_the_client_brings_neither_ray_nor_torch() -> None:
    code = "import sys, deployments.client; print({'ray', 'torch', 'fastapi', 'pydantic'} & sys.modules.keys())"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("outputs", [None, ["y"]])
def test_arrays_go_in_and_come_out(doubling: Client, binary: bool, outputs: list[str] | None) -> None:
    alone = doubling.infer("double", ROWS, outputs=outputs, binary=binary)
    named = doubling.infer("double", {"x": ROWS}, outputs=outputs, binary=binary)

    assert alone.dtype == np.float32
    assert np.array_equal(alone, ROWS * 2)
    assert named.keys() == {"y"}
    assert np.array_equal(named["y"], ROWS * 2)


def test_lists_and_wider_numbers_are_cast_to_what_the_model_takes(doubling: Client) -> None:
    assert np.array_equal(doubling.infer("double", ROWS.astype(np.float64).tolist()), ROWS * 2)
    assert np.array_equal(doubling.infer("double", ROWS[:, ::-1].astype(np.int32)), ROWS[:, ::-1] * 2)


async def double_async(url: str) -> tuple[Any, Any]:
    async with AsyncClient(url, "k") as client:
        several = await asyncio.gather(*(client.infer("double", ROWS + n) for n in range(20)))
        return several, await client.infer("double", {"x": ROWS}, binary=False)


def test_the_async_client_does_the_same_many_at_a_time() -> None:
    with serving(served(double)) as url:
        several, named = asyncio.run(double_async(url))

    assert all(np.array_equal(y, (ROWS + n) * 2) for n, y in enumerate(several))
    assert np.array_equal(named["y"], ROWS * 2)


def test_threads_may_share_a_client_and_get_their_own_answers(doubling: Client) -> None:
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(20):
            if not np.array_equal(doubling.infer("double", ROWS + number), (ROWS + number) * 2):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_connections_are_used_again() -> None:
    ports = set()

    def answer(path: str, body: bytes, scope: Scope) -> Reply:
        ports.add(scope["client"][1])
        return double(path, body, scope)

    with serving(served(answer)) as url, Client(url, "k") as client:
        for _ in range(10):
            client.infer("double", ROWS)
    assert len(ports) == 1


def failing(statuses: list[int], headers: Headers = []) -> tuple[App, list[float]]:  # noqa: B006
    """A server that answers with these statuses in turn, and then as it should; and when it was asked."""
    asked, left = [], iter(statuses)

    def answer(path: str, body: bytes, scope: Scope) -> Reply:
        asked.append(time.monotonic())
        status = next(left, 200)
        if status == 200:
            return 200, b'{"predictions": [{"label": "a"}]}', []
        return status, errors.encode_error("queue_full", "full", "r7"), headers

    return served(answer), asked


@pytest.mark.parametrize("status", [429, 503])
def test_what_is_too_busy_is_asked_again(status: int) -> None:
    app, asked = failing([status, status])
    with serving(app) as url, Client(url, "k") as client:
        assert client.predict("m", [1]) == [{"label": "a"}]

    assert len(asked) == 3
    assert asked[1] - asked[0] >= FIRST_WAIT_S / 2
    assert asked[2] - asked[1] >= FIRST_WAIT_S


def test_retry_after_is_honoured() -> None:
    app, asked = failing([503], [(b"retry-after", b"0.5")])
    with serving(app) as url, Client(url, "k") as client:
        client.predict("m", [1])

    assert asked[1] - asked[0] >= 0.5


def test_retries_end_and_do_not_outlast_the_timeout() -> None:
    app, asked = failing([503] * 100)
    with serving(app) as url:
        with Client(url, "k", retries=1) as client, pytest.raises(errors.QueueFull) as found:
            client.predict("m", [1])
        assert len(asked) == 2
        start = time.monotonic()
        with Client(url, "k", retries=50, timeout=0.5) as client, pytest.raises(errors.QueueFull):
            client.predict("m", [1])
    # Fifty retries would take minutes.
    assert time.monotonic() - start < 3.0
    assert (found.value.status, found.value.code, found.value.request_id) == (503, "queue_full", "r7")


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 504])
def test_nothing_else_is_asked_again(status: int) -> None:
    app, asked = failing([status])
    with serving(app) as url, Client(url, "k") as client, pytest.raises(CallError):
        client.predict("m", [1])

    assert len(asked) == 1


def test_waits_double_and_are_spread() -> None:
    for attempt, asked_s in itertools.product(range(12), (None, 1.0)):
        waits = [backoff_s(attempt, asked_s) - (asked_s or 0) for _ in range(100)]
        most = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)
        assert most / 2 <= min(waits) < max(waits) <= most


class Raw:
    """A server of bare sockets that does to each connection in turn what it is told."""

    def __init__(self, *doings: Callable[[socket.socket], None]) -> None:
        self.listener, self.accepted = socket.create_server(("127.0.0.1", 0)), 0
        self.doings = doings
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        for doing in self.doings:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # the test is over
                return
            self.accepted += 1
            with connection:
                doing(connection)

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def hang_up(connection: socket.socket) -> None:
    connection.recv(65536)


def answer_well(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\n{"predictions": [1]')
    connection.sendall(b"}")


def answer_half(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{"predi')


def stay_silent(connection: socket.socket) -> None:
    connection.recv(65536)
    time.sleep(1.0)


def test_a_connection_that_closes_before_an_answer_is_tried_again() -> None:
    server = Raw(hang_up, hang_up, answer_half)
    with server as url, Client(url, "k") as client, pytest.raises(ProtocolError):
        client.predict("m", [1])

    # What has begun to be answered is not asked again.
    assert server.accepted == 3


def test_a_service_that_is_not_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", "k", retries=1) as client, pytest.raises(ConnectionFailed, match=str(port)):
        client.ready("m")


def test_silence_ends_with_the_timeout_and_is_not_tried_again() -> None:
    server = Raw(stay_silent, answer_well)
    start = time.monotonic()
    with server as url, Client(url, "k", timeout=0.2) as client, pytest.raises(ResponseTimeout, match=r"within 0\.2 s"):
        client.predict("m", [1])

    assert time.monotonic() - start < 0.9
    assert server.accepted == 1


def test_the_key_is_this_machines_own_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def answer(path: str, body: bytes, scope: Scope) -> Reply:
        seen.append(get_header(scope, b"authorization"))
        return 200, b'{"ready": true}', []

    monkeypatch.setenv("SHOAL_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"admin_key.*key="):
        Client()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "admin_key").write_text("shoal-1\n")
    with serving(served(answer)) as url, Client(url) as own, Client(url, "other") as other:
        assert own.ready("m")
        assert other.ready("m")

    assert seen == [b"Bearer shoal-1", b"Bearer other"]


@pytest.mark.parametrize(("timeout", "retries"), [(0, 1), (-1, 1), (1, -1)])
def test_numbers_out_of_range_are_refused(timeout: float, retries: int) -> None:
    with pytest.raises(UserError, match="timeout"):
        Client("http://127.0.0.1", "k", timeout=timeout, retries=retries)


def test_a_task_is_asked_in_its_own_words() -> None:
    seen: list[tuple[str, bytes, bytes]] = []

    def answer(path: str, body: bytes, scope: Scope) -> Reply:
        seen.append((path, get_header(scope, b"content-type"), body))
        return 200, b'{"predictions": []}', []

    png = b"\x89PNG\r\n"
    with serving(served(answer)) as url, Client(url, "k") as client:
        client.predict("m", ["很好"], top_k=2)
        client.predict("m", np.ones((1, 2)), version=3)
        client.predict("a/b", [{"w": np.float32(0.5)}])
        client.predict("m", png)
        client.predict("m", png, min_score=0.5)
        client.predict("m", [png])
        with pytest.raises(TypeError, match="send a list"):
            client.predict("m", "one text")  # type: ignore[arg-type]

    paths, kinds, bodies = zip(*seen, strict=True)
    assert paths == tuple(f"/v2/models/{path}/predict" for path in ("m", "m/versions/3", "a/b", "m", "m", "m"))
    assert [json.loads(body) for body in (*bodies[:3], *bodies[4:])] == [
        {"inputs": ["很好"], "top_k": 2},
        {"inputs": [[1.0, 1.0]]},
        {"inputs": [{"w": 0.5}]},
        {"inputs": ["iVBORw0K"], "min_score": 0.5},
        {"inputs": ["iVBORw0K"]},
    ]
    assert (kinds[3], bodies[3]) == (b"image/png", png)


STREAM = (
    b'event: token\ndata: {"row": 0, "text": "a\xe2\x80\xa8"}\n\n: keep-alive\n\n'
    b'event: token\ndata: {"row": 0, "text": "b"}\n\n'
)
DONE = b'event: done\ndata: {"predictions": [{"text": "a\xe2\x80\xa8b"}]}\n\n'


def streamed(events: bytes) -> App:
    def answer(path: str, body: bytes, scope: Scope) -> Reply:
        assert json.loads(body)["stream"] is True
        return 200, events, [(b"content-type", b"text/event-stream; charset=utf-8")]

    return served(answer)


async def pieces_async(url: str) -> tuple[list[str], Any]:
    async with AsyncClient(url, "k") as client, await client.stream("m", ["x"]) as stream:
        return [piece.text async for piece in stream], stream.predictions


def test_a_stream_gives_pieces_and_then_the_whole() -> None:
    with serving(streamed(STREAM + DONE)) as url:
        with Client(url, "k") as client:
            stream = client.stream("m", ["x"])
            found = [piece.text for piece in stream]
        again, predictions = asyncio.run(pieces_async(url))

    # A line separator (U+2028) ends no line of an event stream.
    assert found == again == ["a\u2028", "b"]
    assert stream.predictions == predictions == [{"text": "a\u2028b"}]


def test_a_stream_that_ends_early_is_broken_and_one_that_fails_raises() -> None:
    error = b"event: error\ndata: " + errors.encode_error("timeout", "too long", "r1") + b"\n\n"
    with serving(streamed(STREAM)) as url, Client(url, "k") as client, pytest.raises(ProtocolError):
        list(client.stream("m", ["x"]))
    with serving(streamed(STREAM + error)) as url, Client(url, "k") as client:
        failing = client.stream("m", ["x"])
        with pytest.raises(errors.DeadlineExceeded, match="too long") as found:
            list(failing)
    assert (found.value.status, found.value.request_id) == (504, "r1")


def test_a_stream_that_is_refused_raises_at_once() -> None:
    app, _ = failing([406])
    with serving(app) as url, Client(url, "k") as client, pytest.raises(CallError) as found:
        client.stream("m", ["x"])
    assert found.value.status == 406
