"""The control application, in this process; tests/e2e has it behind Serve and HAProxy."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ray import serve
from ray.exceptions import RayActorError

from deployments.control.app import build_api
from deployments.control.catalog import Catalog
from deployments.settings import ServingSettings
from tests.deployments.control.conftest import LocalClient
from tests.deployments.server.apps import make_asgi_app, open_client

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http(
    catalog: Catalog, local_client: LocalClient, serving_settings: ServingSettings
) -> AsyncIterator[httpx.AsyncClient]:
    api = build_api(catalog, local_client, serving_settings, "http://test")  # type: ignore[arg-type]
    async with open_client(make_asgi_app(api)) as http:
        yield http


async def test_the_catalog_summarizes_models_and_pipelines_with_the_same_keys(http: httpx.AsyncClient) -> None:
    models = {each["name"]: each for each in (await http.get("/api/v1/models")).json()["models"]}

    assert models["flowers"] == {
        "name": "flowers",
        "task": "tabular-classification",
        "summary": "Classifies three species.",
        "newest": 1,
        "aliases": {"champion": 1},
        "status": "RUNNING",
        "deployed_version": 1,
        "variant": "fp32",
    }
    assert models["twice"].keys() == models["flowers"].keys() | {"nodes"}
    assert models["twice"]["nodes"] == ["flowers"]


async def test_a_model_is_described_with_versions_manifest_and_example(http: httpx.AsyncClient) -> None:
    flowers = (await http.get("/api/v1/models/flowers")).json()
    twice = (await http.get("/api/v1/models/twice")).json()

    assert [version["version"] for version in flowers["versions"]] == [1]
    assert flowers["manifest"]["name"] == "flowers"
    assert twice["pipeline"]["root"]["kind"] == "fan-out"
    assert twice["example"] == {"inputs": [flowers["example"]["inputs"][0]]}


async def test_the_stable_address_predicts_within_the_services_time_limit(
    http: httpx.AsyncClient, local_client: LocalClient, serving_settings: ServingSettings
) -> None:
    example = (await http.get("/api/v1/models/flowers")).json()["example"]

    response = await http.post("/api/v1/models/flowers/predict", json=example)

    assert response.status_code == 200
    assert response.json()["predictions"][0]["label"] in ("a", "b", "c")
    assert local_client.timeouts_s[-1] == serving_settings.limits.request_timeout_s


async def test_an_error_of_the_model_keeps_its_status_code_and_request_id(http: httpx.AsyncClient) -> None:
    response = await http.post("/api/v1/models/flowers/predict", json={"inputs": []}, headers={"x-request-id": "r1"})

    assert response.status_code == 422
    assert response.json()["error"] | {"message": ""} == {"code": "empty_request", "message": "", "request_id": "r1"}


async def test_a_stream_that_cannot_start_has_its_own_status(http: httpx.AsyncClient) -> None:
    stream = await http.post("/api/v1/models/flowers/predict", json={"inputs": [[1, 2, 3, 4]], "stream": True})
    unknown = await http.post("/api/v1/models/roses/predict", json={"inputs": ["a"], "stream": True})

    assert (stream.status_code, stream.json()["error"]["code"]) == (406, "not_streamable")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_model")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/roses", 404),
        ("POST", "/v2/models/roses/infer", 404),
        ("POST", "/v2/models/roses/versions/1/infer", 404),
        ("GET", "/v2/models/roses/versions/1/infer", 405),
        ("GET", "/v2/models/roses/versions/1", 404),
        ("GET", "/api/v1/models/roses", 404),
        ("POST", "/api/v1/models/roses/predict", 404),
        ("GET", "/api/v1/models/flowers/predict", 405),
        ("GET", "/nothing", 404),
    ],
)
async def test_what_is_not_there_is_refused_in_the_form_of_its_path(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await http.request(method, path, json={"inputs": []} if method == "POST" else None)

    assert response.status_code == status
    error: Any = response.json()["error"]
    assert isinstance(error, str if path.startswith("/v2") else dict)
    if status == 404 and "roses" in path:
        assert "'roses'" in str(error)


def fail_as_without_a_controller() -> None:
    raise RayActorError


async def test_the_service_is_ready_when_every_deployment_runs(
    http: httpx.AsyncClient,
    catalog: Catalog,
    applications: dict[str, SimpleNamespace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (await http.get("/v2/health/live")).json() == {"live": True}
    assert (await http.get("/v2/health/ready")).json() == {"ready": True}

    # While another version is being deployed, or does not start, the replicas of this one answer.
    for status in ("DEPLOYING", "DEPLOY_FAILED", "UNHEALTHY"):
        applications["images"].status.value = status
        catalog.status._fetched_s = float("-inf")
        assert (await http.get("/v2/health/ready")).json() == {"ready": True}
    # While Serve's controller restarts, they do as well.
    with monkeypatch.context() as context:
        context.setattr(serve, "status", fail_as_without_a_controller)
        catalog.status._fetched_s = float("-inf")
        assert (await http.get("/v2/health/ready")).json() == {"ready": True}

    applications["images"].deployments["replica"].replica_states = {"STARTING": 1}
    catalog.status._fetched_s = float("-inf")
    assert (await http.get("/v2/health/ready")).status_code == 503
    del applications["images"]
    catalog.status._fetched_s = float("-inf")

    response = await http.get("/v2/health/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False})
    models = {each["name"]: each for each in (await http.get("/api/v1/models")).json()["models"]}
    assert models["images"]["status"] == "NOT_STARTED"
