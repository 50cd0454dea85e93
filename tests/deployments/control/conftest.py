"""A catalog of two published and deployed models and a pipeline, without a cluster."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from ray import serve

from deployments.access.authorization import Authorization
from deployments.control.app import build_api
from deployments.control.catalog import Catalog
from deployments.edge.splits import CallOrigin
from deployments.errors import UnknownModel
from deployments.models.served_model import ServedModel
from deployments.pipelines import FanOut, ModelNode, Pipeline
from deployments.pipelines.compatibility import PipelineResolver
from deployments.server.asgi import AsgiHandler
from deployments.server.middleware import compose_http
from deployments.server.scheduling import Scheduling
from deployments.server.served import OnServed, Served, ignore_served
from deployments.server.sse import Event
from deployments.settings import Limits, ServingSettings
from deployments.specs.deployment import PipelineDeployment
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
from deployments.specs.signature import build_model_signature
from deployments.state.store import DeploymentStore
from tests.deployments.callers import encode_caller, write_pepper
from tests.deployments.server.apps import open_client
from tests.small_bundles import save_image, save_table
from training.registry.model_registry import Registry


class LocalClient:
    """HandleClient's methods on models in this process."""

    def __init__(self, models: dict[str, ServedModel]) -> None:
        self._models = models
        self.timeouts_s: list[float] = []
        self.priorities: list[int] = []
        self.origins: list[CallOrigin | None] = []

    def _get(self, model: str) -> ServedModel:
        if model not in self._models:
            raise UnknownModel(f"no model {model!r} is deployed")
        return self._models[model]

    async def predict(
        self,
        model: str,
        body: bytes,
        request_id: str | None,
        timeout_s: float,
        priority: int = 0,
        content_type: str = "application/json",
        *,
        version: str = "",
        origin: CallOrigin | None = None,
        on_served: OnServed = ignore_served,
    ) -> bytes:
        self.origins.append(origin)
        self.timeouts_s.append(timeout_s)
        self.priorities.append(priority)
        self._get(model).endpoint.check_version(version)
        on_served(Served.of(self._get(model).endpoint))
        return await self._get(model).predict(body, content_type, request_id, Scheduling.after(timeout_s, priority))

    async def infer(
        self,
        model: str,
        version: str,
        body: bytes,
        header_length: int | None,
        timeout_s: float,
        priority: int = 0,
        origin: CallOrigin | None = None,
        on_served: OnServed = ignore_served,
    ) -> tuple[bytes, int | None]:
        self.origins.append(origin)
        self.timeouts_s.append(timeout_s)
        self.priorities.append(priority)
        self._get(model).endpoint.check_version(version)
        on_served(Served.of(self._get(model).endpoint))
        return await self._get(model).infer(body, header_length, Scheduling.after(timeout_s, priority))

    async def metadata(self, model: str, version: str, timeout_s: float) -> bytes:
        self._get(model).endpoint.check_version(version)
        return self._get(model).metadata

    async def stream(
        self,
        model: str,
        body: bytes,
        request_id: str | None,
        timeout_s: float = 1.0,
        priority: int = 0,
        content_type: str = "application/json",
        *,
        version: str = "",
        origin: CallOrigin | None = None,
        on_served: OnServed = ignore_served,
    ) -> AsyncGenerator[Event]:
        self.origins.append(origin)
        self.priorities.append(priority)
        self._get(model).endpoint.check_version(version)
        on_served(Served.of(self._get(model).endpoint))
        async for event in self._get(model).stream(body, content_type, Scheduling.after(timeout_s, priority)):
            yield event


@pytest.fixture(scope="session")
def serving_settings(tmp_path_factory: pytest.TempPathFactory) -> ServingSettings:
    """A home whose registry has `flowers` and `images`, both deployed, and the pipeline `twice`."""
    folder = tmp_path_factory.mktemp("control")
    settings = ServingSettings(home=folder / "home")
    registry, store = Registry(settings), DeploymentStore.open(settings)
    save_table(folder / "table")
    save_image(folder / "image")
    for bundle in ("table", "image"):
        version = registry.publish(folder / bundle)
        store.put_record(
            ModelDeployment(
                endpoint=ModelEndpoint(
                    name=version.name, version=version.version, digest=version.digest, uri=version.uri
                )
            )
        )
    models = {each.deployment.name: each for each in Catalog(settings).list_deployed_models()}
    resolver = PipelineResolver(
        store.list_records(),
        lambda model: build_model_signature(models[model.name].manifest, models[model.name].example),
    )
    twice = Pipeline(
        name="twice",
        summary="The same twice.",
        root=FanOut(nodes={"once": ModelNode(model="flowers"), "again": ModelNode(model="flowers")}),
    )
    store.put_record(PipelineDeployment(endpoint=resolver.resolve(twice, Limits(), None)))
    return settings


@pytest.fixture
def applications(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimpleNamespace]:
    """Serve's applications and their status; all run."""
    running = {
        name: SimpleNamespace(
            status=SimpleNamespace(value="RUNNING"),
            deployments={"replica": SimpleNamespace(replica_states={"RUNNING": 1})},
        )
        for name in ("flowers", "images", "twice")
    }
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=running))
    return running


@pytest.fixture
def catalog(serving_settings: ServingSettings, applications: dict[str, SimpleNamespace]) -> Catalog:
    return Catalog(serving_settings)


@pytest.fixture(scope="session")
def local_client(serving_settings: ServingSettings) -> LocalClient:
    deployed = Catalog(serving_settings).list_deployed_models()
    cache: Path = serving_settings.home / "cache"
    return LocalClient({each.deployment.name: ServedModel(each.deployment.endpoint, cache) for each in deployed})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


SECRET = "of the edge"
Open = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
"""Opens a client of a caller whose key allows some scopes."""


@pytest.fixture
def open_as(catalog: Catalog, local_client: LocalClient, serving_settings: ServingSettings) -> Open:
    """Open a client of a caller whose key allows some scopes."""
    write_pepper(serving_settings.home)
    api = build_api(catalog, local_client, serving_settings, "http://test")  # type: ignore[arg-type]
    app = compose_http(AsgiHandler(api), serving_settings.limits, SECRET, Authorization())

    @asynccontextmanager
    async def open_for(allow: str, name: str = "acme/boss") -> AsyncIterator[httpx.AsyncClient]:
        headers = {"x-shoal-edge": SECRET, "x-shoal-caller": encode_caller(name, allow)}
        async with open_client(app, headers=headers) as http:
            yield http

    return open_for
