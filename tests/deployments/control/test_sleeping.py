"""A model that sleeps: it is ready, tells what it is without being woken, and is woken by what computes."""

from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from deployments.access.authorization import Authorization
from deployments.control.app import build_api
from deployments.control.catalog import Catalog
from deployments.errors import Unavailable
from deployments.protocols.grpc import messages
from deployments.server.asgi import AsgiHandler
from deployments.server.middleware import compose_http
from deployments.settings import Limits, ServingSettings
from deployments.specs.model_deployment import ModelDeployment, Scale
from deployments.state.store import DeploymentStore
from tests.deployments.callers import TESTER_HEADER
from tests.deployments.control.grpc_calls import call, run_gateway
from tests.deployments.server.apps import open_client

pytestmark = pytest.mark.anyio
SECRET = "of the edge"


class Sleeper:
    """A client whose model has no replica yet; `calls` are those that would wake it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def predict(self, model: str, *_: Any, **__: Any) -> bytes:
        self.calls.append("predict")
        raise Unavailable(f"{model} was asleep and is still starting")

    async def metadata(self, model: str, *_: Any) -> bytes:
        self.calls.append("metadata")
        raise Unavailable(f"{model} was asleep and is still starting")


@pytest.fixture
def asleep(serving_settings: ServingSettings, applications: dict[str, SimpleNamespace]) -> Iterator[SimpleNamespace]:
    """Serve's status of `flowers`, which sleeps."""
    store = DeploymentStore.open(serving_settings)
    record = store.get_record("flowers")
    assert isinstance(record, ModelDeployment)
    store.put_record(record.model_copy(update={"scale": Scale(min_replicas=0)}))
    applications["flowers"].deployments["replica"].replica_states = {}
    yield applications["flowers"]
    store.put_record(record)


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


@pytest.fixture
async def http(catalog: Catalog, sleeper: Sleeper, serving_settings: ServingSettings) -> AsyncIterator[Any]:
    handler = AsgiHandler(build_api(catalog, sleeper, serving_settings, "http://test"))  # type: ignore[arg-type]
    app = compose_http(handler, serving_settings.limits, SECRET, Authorization())
    async with open_client(app, headers={"x-shoal-edge": SECRET, **TESTER_HEADER}) as http:
        yield http


@pytest.mark.parametrize("prefix", ["/v2/models/flowers", "/v2/models/flowers/versions/1"])
async def test_asking_does_not_wake_it(
    asleep: SimpleNamespace, http: httpx.AsyncClient, sleeper: Sleeper, catalog: Catalog, prefix: str
) -> None:
    assert (await http.get(f"{prefix}/ready")).json() == {"name": "flowers", "ready": True}
    metadata = (await http.get(prefix)).json()
    assert (metadata["name"], metadata["versions"], metadata["inputs"][0]["shape"]) == ("flowers", ["1"], [-1, 4])
    (deployed,) = [each for each in catalog.list_deployed_models() if each.deployment.name == "flowers"]
    assert (await http.get(f"{prefix}/example")).json() == deployed.example
    assert (await http.get("/v2/models/flowers/versions/2/ready")).status_code == 404
    assert sleeper.calls == []


async def test_a_call_wakes_it_and_one_that_cannot_wait_is_told_when_to_try_again(
    asleep: SimpleNamespace, http: httpx.AsyncClient, sleeper: Sleeper
) -> None:
    for path in (
        "/v2/models/flowers/predict",
        "/v2/models/flowers/versions/1/predict",
        "/api/v1/models/flowers/predict",
    ):
        response = await http.post(path, json={"inputs": [[1, 2, 3, 4]]})

        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert sleeper.calls == ["predict"] * 3


async def test_the_service_is_ready_and_the_catalog_says_that_it_sleeps(
    asleep: SimpleNamespace, http: httpx.AsyncClient, catalog: Catalog
) -> None:
    assert (await http.get("/v2/health/ready")).status_code == 200
    assert catalog.status.fetch_statuses()["flowers"] == "ASLEEP"


@pytest.mark.parametrize("status", ["DEPLOY_FAILED", "UNHEALTHY", "DEPLOYING"])
async def test_what_cannot_start_does_not_sleep(
    asleep: SimpleNamespace, http: httpx.AsyncClient, sleeper: Sleeper, status: str
) -> None:
    asleep.status.value = status

    assert (await http.get("/v2/models/flowers/ready")).status_code == 503
    assert (await http.get("/v2/health/ready")).status_code == 503
    # Neither probe waits for a replica.
    assert sleeper.calls == []


async def test_grpc_answers_the_same(asleep: SimpleNamespace, sleeper: Sleeper, catalog: Catalog) -> None:
    async with run_gateway(catalog.status, sleeper, Limits()) as channel:
        ready = await call(channel, "ModelReady", messages.ModelReadyRequest(name="flowers"))
        metadata = await call(channel, "ModelMetadata", messages.ModelMetadataRequest(name="flowers"))

    assert ready.ready
    assert metadata.versions == ["1"]
    assert sleeper.calls == []
