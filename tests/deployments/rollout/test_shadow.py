"""Copies of requests: where they go, how many, and whether the answers agree; the version beside is a real server."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from deployments.client.tensors import encode_request
from deployments.edge.state import Instructions, ShadowTarget
from deployments.errors import InferenceFailed, MalformedBody
from deployments.rollout import shadow as shadow_module
from deployments.rollout.agreement import have_same_predictions, have_same_tensors
from deployments.rollout.shadow import MAX_COPIES, ShadowedModel
from deployments.server.http_server import HttpServer
from deployments.server.request import Request, Response
from deployments.settings import EdgeSettings
from deployments.specs.model_deployment import Endpoint
from tests.deployments.server.apps import make_app

pytestmark = pytest.mark.anyio
BODY, JSON = b'{"inputs": [1]}', "application/json"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Model:
    """Answers with a label, or raises."""

    example: ClassVar[dict[str, Any]] = {}
    metadata = b"{}"
    endpoint = Endpoint(name="flowers", version=1)
    error: Exception | None = None

    async def predict(self, *_: Any) -> bytes:
        if self.error:
            raise self.error
        return b'{"predictions": [{"label": "a", "score": 0.9}], "version": "1"}'

    async def infer(self, *_: Any) -> tuple[bytes, int | None]:
        return (await self.predict()), None

    def stream(self, *_: Any) -> Any:
        raise NotImplementedError


class Beside:
    """The new version: what it got, and what it answers."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.headers: list[bytes] = []
        self.status, self.label, self.may_answer = 200, "a", asyncio.Event()
        self.may_answer.set()

    async def answer(self, request: Request) -> Response:
        self.paths.append(request.path)
        self.headers.append(request.get_header(b"x-shoal-edge"))
        await self.may_answer.wait()
        body = {"predictions": [{"label": self.label, "score": 0.4}], "version": "2"}
        return Response(self.status, json.dumps(body).encode())


@pytest.fixture
async def beside() -> AsyncIterator[tuple[Beside, ShadowTarget]]:
    beside = Beside()
    server = HttpServer(make_app(beside.answer))
    port = await server.start("127.0.0.1")
    yield beside, ShadowTarget((f"127.0.0.1:{port}",), 100)
    await server.drain(0)


@pytest.fixture
def shadow(monkeypatch: pytest.MonkeyPatch) -> ShadowedModel:
    async def fetch_secret() -> str:
        return "of the cluster"

    monkeypatch.setattr(shadow_module, "fetch_edge_secret", fetch_secret)
    return ShadowedModel(Model(), EdgeSettings(), is_classifier=True, serve=lambda model: None)


async def finish_copies(shadow: ShadowedModel) -> tuple[int, int, int]:
    await asyncio.gather(*shadow._tasks)
    report = shadow.report()
    return report.pairs, report.agreements, report.dropped


async def test_a_copy_goes_beside_and_its_answer_is_compared(
    shadow: ShadowedModel, beside: tuple[Beside, ShadowTarget]
) -> None:
    server, target = beside
    shadow.follow(Instructions(target))
    server.may_answer.clear()

    # Nobody waits for the copy.
    response = await asyncio.wait_for(shadow.predict(BODY, JSON), 1)
    server.may_answer.set()

    assert b'"version": "1"' in response
    assert await finish_copies(shadow) == (1, 1, 0)
    assert (server.paths, server.headers) == (["/v2/models/flowers/predict"], [b"of the cluster"])
    for server.status, server.label in ((200, "b"), (500, "a")):
        await shadow.predict(BODY, JSON)
        await finish_copies(shadow)
    assert await finish_copies(shadow) == (3, 1, 0)


async def test_what_the_version_fails_for_is_copied_and_callers_mistakes_are_not(
    shadow: ShadowedModel, beside: tuple[Beside, ShadowTarget]
) -> None:
    server, target = beside
    shadow.follow(Instructions(target))
    for Model.error in (InferenceFailed("no finite number"), MalformedBody("no JSON")):
        with pytest.raises(type(Model.error)):
            await shadow.predict(BODY, JSON)
    Model.error = None

    assert await finish_copies(shadow) == (0, 0, 0)
    assert len(server.paths) == 1


async def test_a_share_is_copied_and_no_more_than_the_new_version_keeps_up_with(
    shadow: ShadowedModel, beside: tuple[Beside, ShadowTarget]
) -> None:
    server, target = beside
    shadow.follow(Instructions(ShadowTarget(target.addresses, 30)))
    for _ in range(100):
        await shadow.predict(BODY, JSON)
        await asyncio.gather(*shadow._tasks)
    # Four standard deviations.
    assert 11 <= len(server.paths) <= 49

    shadow.follow(Instructions(target))
    server.may_answer.clear()
    for _ in range(MAX_COPIES + 5):
        await shadow.predict(BODY, JSON)
    assert shadow.report().dropped == 5
    server.may_answer.set()
    await finish_copies(shadow)


async def test_without_a_shadow_the_routes_use_the_model_itself(beside: tuple[Beside, ShadowTarget]) -> None:
    model, served = Model(), list[Any]()
    shadow = ShadowedModel(model, EdgeSettings(), is_classifier=True, serve=served.append)

    for target in (None, beside[1], beside[1], None, None):
        shadow.follow(Instructions(target))

    assert served == [shadow, model]


async def test_a_replica_that_has_gone_takes_nothing_with_it(shadow: ShadowedModel) -> None:
    shadow.follow(Instructions(ShadowTarget(("127.0.0.1:1",), 100)))
    assert await shadow.predict(BODY, JSON)
    assert await finish_copies(shadow) == (0, 0, 1)


@pytest.mark.parametrize(
    ("stable", "canary", "agree"),
    [
        ([{"label": "a", "score": 0.9}], [{"label": "a", "score": 0.5}], True),
        ([{"label": "a"}], [{"label": "b"}], False),
        ([{"price": 100.0}], [{"price": 104.0}], True),
        ([{"price": 100.0}], [{"price": 110.0}], False),
        ([{"price": 100.0}], [{"cost": 100.0}], False),
        ([{"text": "yes"}], [{"text": "no"}], False),
        ([[{"label": "a", "start": 1}]], [[]], False),
        ([{"price": 1.0}], [{"price": 1.0}, {"price": 1.0}], False),
    ],
)
def test_predictions_agree(stable: list[Any], canary: list[Any], agree: bool) -> None:
    bodies = (
        json.dumps({"predictions": rows, "version": str(number)}).encode()
        for number, rows in enumerate((stable, canary))
    )
    assert have_same_predictions(*bodies) is agree


@pytest.mark.parametrize("use_binary", [False, True])
@pytest.mark.parametrize(
    ("stable", "canary", "is_classifier", "agree"),
    [
        ([[1.0, 2.0]], [[0.0, 9.0]], True, True),
        ([[1.0, 2.0]], [[3.0, 2.0]], True, False),
        ([[1.0, 2.0]], [[1.01, 2.02]], False, True),
        ([[1.0, 2.0]], [[1.0, 3.0]], False, False),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], True, False),
    ],
)
def test_tensors_agree(
    stable: list[Any], canary: list[Any], is_classifier: bool, agree: bool, use_binary: bool
) -> None:
    responses = []
    for values in (stable, canary):
        body, headers = encode_request({"logits": np.array(values, np.float32)}, None, use_binary)
        length = next((int(value) for name, value in dict(headers).items() if name.lower() == LENGTH), None)
        # A request's inputs have the form of a response's outputs.
        head, tail = (body, b"") if length is None else (body[:length], body[length:])
        changed = head.replace(b'"inputs"', b'"outputs"')
        responses.append((changed + tail, None if length is None else len(changed)))
    assert have_same_tensors(*responses, is_classifier=is_classifier) is agree


LENGTH = b"inference-header-content-length"


async def test_a_copy_whose_target_leaves_before_it_is_sent_goes_to_it_all_the_same(
    shadow: ShadowedModel, beside: tuple[Beside, ShadowTarget]
) -> None:
    _, target = beside
    shadow.follow(Instructions(target))
    await shadow.predict(BODY, JSON)
    # Before the copy's first step.
    shadow.follow(Instructions())

    assert await finish_copies(shadow) == (1, 1, 0)


async def test_a_request_whose_target_leaves_meanwhile_is_answered(
    shadow: ShadowedModel, beside: tuple[Beside, ShadowTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = shadow._model.predict

    async def leave(*arguments: Any) -> bytes:
        shadow.follow(Instructions(ShadowTarget((), 100)))
        return await predict(*arguments)

    shadow.follow(Instructions(beside[1]))
    monkeypatch.setattr(shadow._model, "predict", leave)

    assert b'"version": "1"' in await shadow.predict(BODY, JSON)
    assert await finish_copies(shadow) == (0, 0, 0)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_copy_that_was_not_computed_tells_nothing_of_agreement(
    shadow: ShadowedModel, beside: tuple[Beside, ShadowTarget], status: int
) -> None:
    server, target = beside
    server.status = status
    shadow.follow(Instructions(target))
    await shadow.predict(BODY, JSON)

    assert await finish_copies(shadow) == (0, 0, 1)


async def test_copies_that_come_at_once_share_their_connections(
    shadow: ShadowedModel, beside: tuple[Beside, ShadowTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = []

    class CountedClient(httpx.AsyncClient):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            clients.append(self)

    async def fetch_late() -> str:
        await asyncio.sleep(0.05)
        return "of the cluster"

    monkeypatch.setattr(shadow_module, "fetch_edge_secret", fetch_late)
    monkeypatch.setattr(httpx, "AsyncClient", CountedClient)
    shadow.follow(Instructions(beside[1]))
    for _ in range(5):
        await shadow.predict(BODY, JSON)

    assert await finish_copies(shadow) == (5, 5, 0)
    assert len(clients) == 1
