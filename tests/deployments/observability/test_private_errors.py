"""What a log has of an internal error: classes and places, and nothing that a caller sent."""

import logging

import httpx
import msgspec
import pytest

from deployments.errors import UnknownModel
from deployments.observability.private_errors import describe_error
from deployments.protocols.predict.events import ERROR
from deployments.server.handle_api import HandleApi
from deployments.server.middleware import HttpApp, compose_grpc
from deployments.server.request import Request, Response
from deployments.server.sse import send_events
from deployments.specs.model_deployment import Endpoint
from tests.deployments.local_server import run_http_server

pytestmark = pytest.mark.anyio
CANARY = "canary-7d1f"


def raise_with_cause(value: str) -> None:
    try:
        float(value)
    except ValueError as error:
        raise KeyError(value) from error


def test_classes_and_places_are_described_and_messages_are_not() -> None:
    with pytest.raises(KeyError) as raised:
        raise_with_cause(CANARY)

    text = describe_error(raised.value)

    assert CANARY not in text
    assert text.index("ValueError") < text.index("KeyError")
    assert text.count("in raise_with_cause") == 2
    assert __file__ in text


def test_errors_that_were_raised_from_one_another_are_described_once() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first

    assert describe_error(first).count("ValueError") == 1


class Servable:
    """Raises what an unforeseen error would be, with the body in its message."""

    endpoint = Endpoint(name="m", version=1)

    async def predict(self, body: bytes, *rest: object) -> bytes:
        raise ValueError(body.decode())

    infer = predict

    async def stream(self, body: bytes, *rest: object):  # type: ignore[no-untyped-def]
        yield "token", b"{}"
        raise ValueError(body.decode())


def test_a_500_over_http_logs_no_message_of_a_request_with_a_body(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(request: Request) -> Response | None:
        if request.path == "/stream":
            await send_events(request, Servable().stream(request.body))
        raise ValueError(request.body.decode() or "the disk is full")

    caplog.set_level(logging.DEBUG)
    with run_http_server(HttpApp(handle, (), 1000)) as url:
        replies = [
            httpx.post(f"{url}/a%0Ab", content=CANARY),
            httpx.post(f"{url}/stream", content=CANARY),
            httpx.get(f"{url}/"),
        ]

    assert [reply.status_code for reply in replies] == [500, 200, 500]
    assert CANARY not in caplog.text
    assert not [reply for reply in replies if CANARY in reply.text]
    # Where nothing was sent, the message is the operator's.
    assert "the disk is full" in caplog.text
    # A path begins no line of its own.
    assert "request failed: POST /a%0Ab\n" in caplog.text
    assert "stream failed: /stream" in caplog.text
    assert "in handle" in caplog.text


async def test_a_500_by_a_handle_is_answered_and_not_raised_into_serves_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api, body = HandleApi(), CANARY.encode()
    api.servable = Servable()  # type: ignore[assignment]

    predicted = await api.predict(body, "", None)
    inferred = await api.infer("", body, None)
    events = [event async for event in api.stream(body, "", None)]

    assert predicted[0] == inferred[0] == 500
    assert [(status, name) for status, name, *_ in events] == [(200, "token"), (500, ERROR)]
    for encoded in (predicted[1], inferred[1], events[-1][2]):
        assert msgspec.json.decode(encoded)["error"]["code"] == "node_failed"
    assert CANARY not in caplog.text + repr((predicted, inferred, events))
    assert caplog.text.count("call failed: m") == 3
    assert api.report_calls().responses == {500: 3}


async def test_a_500_over_grpc_logs_no_message(caplog: pytest.LogCaptureFixture) -> None:
    class Context:
        async def abort(self, *arguments: object) -> None:
            raise UnknownModel(str(arguments))

    async def method(body: bytes, context: object) -> bytes:
        raise ValueError(body.decode())

    with pytest.raises(UnknownModel) as aborted:
        await compose_grpc(method, name="ModelInfer")(CANARY.encode(), Context())

    assert CANARY not in caplog.text + str(aborted.value)
    assert "call failed: ModelInfer" in caplog.text
