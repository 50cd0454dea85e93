"""What a served model's requests take of their callers' limits: rows, tokens, compute seconds."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.access.authorization import Authorization
from deployments.access.caller import Caller
from deployments.access.limits.limit import find_window, read_limit
from deployments.access.scopes import Action, Scope
from deployments.models.served_model import ServedModel
from deployments.server.edge_check import CALLER_HEADER, SECRET_HEADER
from deployments.server.handle_api import HandleApi
from deployments.server.http_server import HttpServer
from deployments.server.middleware import compose_http
from deployments.server.routes import ModelRoutes
from deployments.specs.model_deployment import ModelEndpoint
from deployments.state.limit_store import Counters, WindowKey
from tests.deployments.server.local_ledger import SECRET, LocalLedger
from tests.deployments.server.raw_http import Response, open_raw
from tests.deployments.small_models import NextToken
from tests.small_bundles import save_table
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import TextInput, TextOutput

pytestmark = pytest.mark.anyio
CALLER = Caller("acme/ci", "ci", (Scope(Action.PREDICT),))
ROW = {"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}


class Replica(HandleApi):
    """A model's server and its handle calls, with limits."""

    def __init__(self, model: ServedModel, ledger: LocalLedger) -> None:
        self.servable, self.ledger = model, ledger

    async def start(self) -> None:
        self.accounts = await self.ledger.open_accounts("replica")
        limits = self.servable.endpoint.limits
        app = compose_http(ModelRoutes(self.servable), limits, SECRET, Authorization("m"), accounts=self.accounts)
        self.server = HttpServer(app)
        self.port = await self.server.start("127.0.0.1")

    async def stop(self) -> None:
        assert self.accounts
        await self.accounts.stop()
        await self.server.drain(1)

    async def post(self, path: str, body: Any) -> Response:
        fields = (f"{SECRET_HEADER.decode()}: {SECRET}", f"{CALLER_HEADER.decode()}: {CALLER.encode()}")
        name = self.servable.endpoint.name
        async with open_raw(self.port) as connection:
            return await connection.request(
                "POST",
                f"/v2/models/{name}/{path}",
                json.dumps(body).encode(),
                *fields,
                "content-type: application/json",
            )

    async def count(self, name: str) -> Counters:
        """What the caller has used of a limit, once all is settled."""
        await asyncio.sleep(0.8)
        period = read_limit(name, "1").period
        assert period
        window = find_window(period, time.time())
        return self.ledger.ledger._store.get_counters(WindowKey("key:ci", name, int(window.start_s)))


async def run_replica(model: ServedModel, folder: Path, **limits: str) -> Replica:
    named = {name.replace("_per_", "/"): amount for name, amount in limits.items()}
    replica = Replica(model, LocalLedger(folder, {"key:ci": named}))
    await replica.start()
    return replica


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("flowers")
    digest = save_table(folder / "bundle").digest
    return ServedModel(ModelEndpoint(name="flowers", version=1, digest=digest, uri=str(folder / "bundle")), folder)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("writer")
    tokenizer = Tokenizer.fit(TokenizerConfig(kind="characters"), ["abcd"])
    info = ModelInfo(
        name="writer", task="text-generation", input_schema=TextInput(max_tokens=8), output_schema=TextOutput()
    )
    net = NextToken(list(range(len(tokenizer))))
    digest = save_bundle(
        folder / "bundle", net, inputs=torch.tensor([[4, 5], [5, 6]]), info=info, tokenizer=tokenizer, example="ab"
    ).digest
    return ServedModel(ModelEndpoint(name="writer", version=1, digest=digest, uri=str(folder / "bundle")), folder)


@pytest.fixture
async def limited(flowers: ServedModel, tmp_path: Path) -> AsyncIterator[Replica]:
    replica = await run_replica(flowers, tmp_path, rows_per_day="10", requests_per_day="100", compute_s_per_day="100")
    yield replica
    await replica.stop()


def infer_body(rows: int) -> dict[str, Any]:
    data = [[5.1, 3.5, 1.4, 0.2]] * rows
    return {"inputs": [{"name": "input", "shape": [rows, 4], "datatype": "FP32", "data": data}]}


async def test_rows_are_charged_by_each_protocol_and_a_request_of_too_many_is_refused_alone(limited: Replica) -> None:
    responses = [
        await limited.post("infer", infer_body(4)),
        await limited.post("predict", {"inputs": [ROW] * 3}),
        await limited.post("infer", infer_body(4)),
        await limited.post("predict", {"inputs": [ROW] * 3}),
        await limited.post("predict", {"inputs": [ROW] * 11}),
    ]

    assert [response.status for response in responses] == [200, 200, 429, 200, 429], responses[0].body
    assert b"7 are used, this request needs 4" in responses[2].body
    assert b"11 rows are over the key's limit of rows=10/day; send fewer in a request" in responses[4].body
    assert await limited.count("rows/day") == (10, 0)
    assert (await limited.count("requests/day")).used == 3
    compute = await limited.count("compute_s/day")
    assert 0 < compute.used < 1
    assert compute.reserved == pytest.approx(0, abs=1e-9)


async def test_calls_by_handle_are_charged_and_those_of_a_pipelines_node_only_for_what_they_compute(
    limited: Replica,
) -> None:
    body, caller = json.dumps({"inputs": [ROW] * 2}).encode(), CALLER.encode()

    statuses = [
        (await limited.predict(body, "application/json", None, caller=caller, is_node=is_node))[0]
        for is_node in (False, True, True)
    ]
    infer_status, *_ = await limited.infer("", json.dumps(infer_body(8)).encode(), None, caller=caller)
    status, refusal, _ = await limited.predict(body + b" ", "application/json", None, caller=caller)

    assert (statuses, infer_status, status) == ([200] * 3, 200, 429)
    assert json.loads(refusal)["error"]["ratelimit-policy"] == '"rows-day";q=10;w=86400'
    assert await limited.count("rows/day") == (10, 0)
    assert (await limited.count("requests/day")).used == 2


async def test_tokens_are_those_of_the_prompts_and_those_that_are_generated(
    writer: ServedModel, tmp_path: Path
) -> None:
    replica = await run_replica(writer, tmp_path, tokens_per_month="45")
    body = {"inputs": ["abc", "ab"], "max_tokens": 10, "temperature": 0}

    first = await replica.post("predict", body)
    second = await replica.post("predict", body)
    used = await replica.count("tokens/month")
    events = replica.stream(
        json.dumps(body | {"inputs": ["a"]}).encode(), "application/json", None, caller=CALLER.encode()
    )
    first_event = await anext(events)
    await events.aclose()
    after_stream = await replica.count("tokens/month")
    await replica.stop()

    prompt = used.used - 20
    assert (first.status, second.status) == (200, 429), first.body
    assert prompt == len("abc") + len("ab")
    assert first_event[0] == 200
    # Less than all that was reserved for it.
    assert used.used < after_stream.total < used.used + 10 + prompt
