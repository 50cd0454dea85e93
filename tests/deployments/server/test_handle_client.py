"""The client of Serve handles, on a fake of Serve's handles; tests/e2e has it on real ones."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from deployments import errors
from deployments.access.caller import CURRENT_CALLER, parse_caller
from deployments.access.usage.call_event import CURRENT_EVENT, CallEvent
from deployments.edge.splits import CallOrigin, Splits
from deployments.edge.state import SPLIT_BUCKETS, Instructions, Split
from deployments.errors import DeadlineExceeded, InvalidType, NodeFailed, Unavailable, UnknownModel
from deployments.server import handle_client
from deployments.server.handle_client import HandleClient
from deployments.server.scheduling import BATCH
from deployments.server.served import Served
from tests.deployments.callers import TESTER
from tests.deployments.server.fake_handles import FakeHandle, FakeResponse

pytestmark = pytest.mark.anyio

SERVED = Served("m", 1, "digest")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> FakeHandle:
    fake = FakeHandle()
    monkeypatch.setattr(serve, "get_app_handle", lambda name: fake)
    return fake


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeHandle]:
    """Of a model and its canary."""
    fakes = {name: FakeHandle() for name in ("m", "m.canary")}
    monkeypatch.setattr(serve, "get_app_handle", lambda name: fakes[name])
    return fakes


def make_splits(percent: int, by: str = "caller") -> Splits:
    splits = Splits()
    splits.follow(Instructions(splits=(Split("m", 2, percent * SPLIT_BUCKETS // 100, by),)))
    return splits


def error_body(error: errors.ClientError) -> bytes:
    return errors.encode_error(error.code, error.message, None)


async def test_a_call_says_for_whom_it_is(handle: FakeHandle) -> None:
    client = HandleClient()
    handle.results = [(200, b"p", SERVED)] * 2
    await client.predict("m", b"body", "r1", 2.0)
    CURRENT_CALLER.set(parse_caller(TESTER.encode()))
    await client.predict("m", b"body", "r1", 2.0)

    assert [parse_caller(each.encode()).name for each in handle.callers] == ["", "default/tester"]


async def test_both_attempts_of_a_call_are_the_same_event(handle: FakeHandle) -> None:
    event = CallEvent(b"e" * 16)
    CURRENT_EVENT.set(event)
    handle.results = [RayActorError(), (200, b"p", SERVED)]

    await HandleClient().predict("m", b"body", "r1", 2.0)

    assert handle.events == [event, event]


async def test_each_method_passes_its_arguments_and_returns_what_follows_the_status(handle: FakeHandle) -> None:
    client = HandleClient()
    events = [(200, "token", b"1", SERVED._replace(version=3)), (200, "done", b"2", None)]
    handle.results = [(200, b"p", SERVED), (200, b"i", 1, SERVED._replace(version=2)), (200, b"m"), events]
    served: list[Served] = []

    assert await client.predict("m", b"body", "r1", 2.0, BATCH, "image/png", on_served=served.append) == b"p"
    assert await client.infer("m", "1", b"body", 4, 2.0, BATCH, on_served=served.append) == (b"i", 1)
    assert await client.metadata("m", "", 2.0) == b"m"
    stream = client.stream("m", b"body", None, 3.0, BATCH, on_served=served.append)
    assert [event async for event in stream] == [("token", b"1"), ("done", b"2")]
    assert [each.version for each in served] == [1, 2, 3]

    assert handle.calls == [
        ("predict", b"body", "image/png", "r1", 2.0, BATCH, ""),
        ("infer", "1", b"body", 4, 2.0, BATCH),
        ("metadata", ""),
        ("stream", b"body", "application/json", None, 3.0, BATCH, ""),
    ]


async def call_predict(client: HandleClient) -> Any:
    return await client.predict("m", b"body", None, 2.0)


async def call_infer(client: HandleClient) -> Any:
    return await client.infer("m", "", b"body", None, 2.0)


async def call_metadata(client: HandleClient) -> Any:
    return await client.metadata("m", "", 2.0)


async def call_stream(client: HandleClient) -> Any:
    return [event async for event in client.stream("m", b"body", None, timeout_s=2.0)]


# Each method, and the results of a success and of an error.
METHODS: dict[str, tuple[Callable[[HandleClient], Any], Any, Callable[[errors.ClientError], Any]]] = {
    "predict": (call_predict, (200, b"ok", SERVED), lambda error: (error.status, error_body(error), None)),
    "infer": (call_infer, (200, b"ok", None, SERVED), lambda error: (error.status, error_body(error), None, None)),
    "metadata": (call_metadata, (200, b"ok"), lambda error: (error.status, error_body(error))),
    "stream": (
        call_stream,
        [(200, "done", b"ok", SERVED)],
        lambda error: [(error.status, "error", error_body(error), None)],
    ),
}


@pytest.mark.parametrize("method", METHODS)
async def test_a_replicas_error_is_raised_as_its_own_class(handle: FakeHandle, method: str) -> None:
    call, _, error_result = METHODS[method]
    handle.results = [error_result(InvalidType("row 0 is a number; send a text"))]

    with pytest.raises(InvalidType, match="row 0 is a number; send a text"):
        await call(HandleClient())


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_whose_replica_died_is_sent_once_more(handle: FakeHandle, method: str) -> None:
    call, success, _ = METHODS[method]
    handle.results = [RayActorError(), success]

    assert await call(HandleClient())
    assert len(handle.calls) == 2

    handle.results = [RayActorError(), RayActorError()]
    with pytest.raises(Unavailable, match="2 replicas of m died"):
        await call(HandleClient())


@pytest.mark.parametrize("method", METHODS)
async def test_an_unexpected_error_names_the_model_and_nothing_of_the_inside(handle: FakeHandle, method: str) -> None:
    call, _, _ = METHODS[method]
    handle.results = [ZeroDivisionError("/secret/path")]

    with pytest.raises(NodeFailed) as error:
        await call(HandleClient())

    assert error.value.message == "internal error of the service: ZeroDivisionError; see the log of m"
    assert handle.responses[0].canceled


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_no_replica_takes_is_given_up(
    handle: FakeHandle, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle_client, "REPLICA_WAIT_S", 0.01)
    call, success, _ = METHODS[method]
    handle.results = [FakeResponse(success, assigned=False)]

    with pytest.raises(Unavailable, match=r"no replica of m is available; waited 0\.01 s"):
        await call(HandleClient())

    assert handle.responses[0].canceled


async def test_a_call_that_no_replica_takes_within_its_own_time_is_late(handle: FakeHandle) -> None:
    handle.results = [FakeResponse((200, b"", SERVED), assigned=False)]

    with pytest.raises(DeadlineExceeded, match=r"no response within 0\.05 s"):
        await HandleClient().predict("m", b"body", None, 0.05)

    assert handle.responses[0].canceled


async def sleeps(model: str) -> bool:
    return model == "m"


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_waits_for_a_model_that_wakes_as_long_as_its_caller_does(
    handle: FakeHandle, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle_client, "REPLICA_WAIT_S", 0.01)
    call, success, _ = METHODS[method]
    response = FakeResponse(success, assigned=False)
    handle.results = [response]
    asyncio.get_running_loop().call_later(0.1, response._replica_result_future.set_result, response)

    assert await call(HandleClient(may_sleep=sleeps))


async def test_a_caller_with_less_time_than_a_start_takes_is_told_to_try_again(
    handle: FakeHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle_client, "REPLICA_WAIT_S", 0.01)
    handle.results = [FakeResponse((200, b"", SERVED), assigned=False)]

    with pytest.raises(Unavailable, match=r"m was asleep and is still starting after 0\.2 s") as refused:
        await HandleClient(may_sleep=sleeps).predict("m", b"body", None, 0.2)

    assert refused.value.headers
    assert handle.responses[0].canceled


@pytest.mark.parametrize("method", ["predict", "infer", "metadata"])
async def test_a_call_past_its_time_limit_is_canceled(handle: FakeHandle, method: str) -> None:
    client = HandleClient()
    calls: dict[str, Callable[[], Any]] = {
        "predict": lambda: client.predict("m", b"body", None, 0.2),
        "infer": lambda: client.infer("m", "", b"body", None, 0.2),
        "metadata": lambda: client.metadata("m", "", 0.2),
    }
    handle.results = [asyncio.sleep(10)]

    with pytest.raises(DeadlineExceeded, match=r"no response within 0\.2 s"):
        await calls[method]()

    assert handle.responses[0].canceled


async def test_a_call_whose_caller_leaves_is_canceled(handle: FakeHandle) -> None:
    handle.results = [asyncio.sleep(10)]
    task = asyncio.create_task(call_predict(HandleClient()))
    while not handle.responses:
        await asyncio.sleep(0.001)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.responses[0].canceled


async def test_closing_a_stream_cancels_it(handle: FakeHandle) -> None:
    handle.results = [[(200, "token", b"1", SERVED), asyncio.sleep(10)]]
    events: Any = HandleClient().stream("m", b"body", None)
    await anext(events)

    await events.aclose()

    assert handle.responses[0].canceled


async def test_a_stream_that_has_started_is_not_sent_again(handle: FakeHandle) -> None:
    handle.results = [[(200, "token", b"1", SERVED), RayActorError()]]
    events: AsyncIterator[Any] = HandleClient().stream("m", b"body", None)
    assert await anext(events) == ("token", b"1")

    with pytest.raises(Unavailable, match="the replica of m died during this request"):
        await anext(events)

    assert len(handle.calls) == 1


async def test_a_model_without_a_running_application_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_error(name: str) -> None:
        raise RayServeException("no such application")

    monkeypatch.setattr(serve, "get_app_handle", raise_error)

    with pytest.raises(Unavailable, match="m has no running application; see `shoal status`"):
        await call_predict(HandleClient())


async def test_an_unknown_model_is_refused_and_a_deployed_one_is_looked_up_once_in_an_interval(
    handle: FakeHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed, lookups = {"m": object()}, []

    def list_deployed() -> dict[str, object]:
        lookups.append(1)
        return deployed

    client = HandleClient(list_deployed)
    handle.results = [(200, b"ok", SERVED)] * 3
    await call_predict(client)
    await call_predict(client)
    assert len(lookups) == 1

    with pytest.raises(UnknownModel, match="no model 'roses' is deployed; GET /api/v1/models lists what is"):
        await client.predict("roses", b"body", None, 2.0)

    deployed.clear()
    await call_predict(client)
    monkeypatch.setattr(handle_client, "CHECK_INTERVAL_S", 0.0)
    with pytest.raises(UnknownModel, match="no model 'm' is deployed; GET"):
        await call_predict(client)


@pytest.mark.parametrize("method", METHODS)
async def test_a_canary_gets_its_share_of_the_calls(handles: dict[str, FakeHandle], method: str) -> None:
    call, success, error_result = METHODS[method]
    handles["m.canary"].results = [success, error_result(Unavailable("the canary's own"))]
    handles["m"].results = [success]

    assert await call(HandleClient(splits=make_splits(100)))
    assert await call(HandleClient(splits=make_splits(0)))
    # What the canary itself answers is an answer, and counts for it.
    with pytest.raises(Unavailable, match="the canary's own"):
        await call(HandleClient(splits=make_splits(100)))
    assert [len(handles[name].calls) for name in ("m", "m.canary")] == [1, 2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("failure", ["died", "stopping", "gone"])
async def test_where_the_canary_has_no_replica_the_version_that_serves_answers(
    handles: dict[str, FakeHandle], method: str, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle_client, "CANARY_WAIT_S", 0.01)
    call, success, _ = METHODS[method]
    results = {
        "died": RayActorError(),
        "stopping": FakeResponse(success, assigned=False),
        "gone": RayServeException("Application 'm.canary' does not exist"),
    }
    handles["m.canary"].results, handles["m"].results = [results[failure]], [success]

    assert await call(HandleClient(splits=make_splits(100)))
    assert [len(handles[name].calls) for name in ("m", "m.canary")] == [1, 1]


async def test_a_version_that_a_call_names_is_found_on_its_side_and_nowhere_else(
    handles: dict[str, FakeHandle],
) -> None:
    handles["m.canary"].results = [(200, b"new"), RayActorError(), RayActorError()]
    handles["m"].results = [(200, b"old")]

    assert await HandleClient(splits=make_splits(0)).metadata("m", "2", 2.0) == b"new"
    assert await HandleClient(splits=make_splits(100)).metadata("m", "1", 2.0) == b"old"
    with pytest.raises(Unavailable):
        await HandleClient(splits=make_splits(0)).metadata("m", "2", 2.0)
    assert len(handles["m"].calls) == 1


async def test_calls_are_split_by_what_the_rollout_says(handles: dict[str, FakeHandle]) -> None:
    async def count(by: str, origins: list[CallOrigin], caller: str = "") -> int:
        handles["m.canary"].calls.clear()
        for fake in handles.values():
            fake.results = [(200, b"", SERVED) for _ in origins]
        client = HandleClient(splits=make_splits(50, by), caller=caller)
        for origin in origins:
            await client.predict("m", b"", "id", 2.0, origin=origin)
        return len(handles["m.canary"].calls)

    ids = [CallOrigin("one", f"request-{number}") for number in range(100)]
    assert await count("caller", ids) in (0, 100)
    assert 30 <= await count("request", ids) <= 70
    users = [CallOrigin("one", "same", {"x-user": f"user-{number}"}) for number in range(100)]
    assert 30 <= await count("header:x-user", users) <= 70
    assert await count("header:x-user", ids) in (0, 100)
