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
from deployments.edge.state import Member, Route
from deployments.scaling.report import LatencyHistogram, PassReport, ReplicaReport
from deployments.scaling.traffic import Window
from deployments.settings import ServingSettings
from deployments.state.revisions import Origin
from deployments.state.store import DeploymentStore
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
    assert local_client.timeouts_s[-1] == pytest.approx(serving_settings.limits.request_timeout_s, abs=1)


async def test_the_stable_address_says_what_answered(http: httpx.AsyncClient, catalog: Catalog) -> None:
    (flowers,) = [each for each in catalog.list_deployed_models() if each.deployment.name == "flowers"]

    response = await http.post("/api/v1/models/flowers/predict", json=flowers.example)
    unknown = await http.post("/api/v1/models/roses/predict", json=flowers.example)

    served = {name: value for name, value in response.headers.items() if name.startswith("x-shoal-")}
    assert served == {"x-shoal-model": "flowers", "x-shoal-version": "1", "x-shoal-digest": flowers.manifest.digest}
    assert not [name for name in unknown.headers if name.startswith("x-shoal-")]


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
        # No redirect: behind TLS it would name http.
        ("GET", "/v2/health/live/", 404),
        ("POST", "/api/v1/models/flowers/predict/", 404),
        ("POST", "/v2/models/flowers/infer/", 404),
        ("GET", "/v2/models/flowers/nothing", 404),
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
    if status == 404 and "roses" not in path:
        assert f"'{path}'" in str(error)


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


async def test_the_profiles_of_a_deployed_model_are_those_of_its_version(
    http: httpx.AsyncClient, local_client: LocalClient
) -> None:
    described = (await http.get("/api/v1/models/flowers/profiles")).json()
    refused = [await http.get(f"/api/v1/models/{name}/profiles") for name in ("twice", "roses")]

    assert (described["name"], described["version"], described["slo_p99_s"]) == ("flowers", 1, None)
    assert [profile["key"]["variant"] for profile in described["profiles"]] == ["fp32"]
    assert described["profiles"][0]["passes"][0]["rows"] == 1
    assert [(each.status_code, each.json()["error"]["code"]) for each in refused] == [(404, "unknown_model")] * 2


async def test_a_deployment_that_serve_builds_anew_stays_ready(
    http: httpx.AsyncClient, catalog: Catalog, applications: dict[str, SimpleNamespace]
) -> None:
    assert (await http.get("/v2/health/ready")).status_code == 200

    # As Serve does for seconds after each change of an application.
    applications["images"].status.value, applications["images"].deployments = "DEPLOYING", {}
    catalog.status._fetched_s = float("-inf")

    assert (await http.get("/v2/health/ready")).status_code == 200
    assert (await http.get("/v2/models/images/ready")).status_code == 200


async def test_a_model_that_is_new_does_not_count_before_it_runs(
    http: httpx.AsyncClient,
    catalog: Catalog,
    serving_settings: ServingSettings,
    applications: dict[str, SimpleNamespace],
) -> None:
    store, images = DeploymentStore.open(serving_settings), catalog.status.list_deployed()["images"]
    new = images.model_copy(update={"endpoint": images.endpoint.model_copy(update={"name": "new"})})
    change = store.begin_change({"new": new}, "deploy", Origin("ann@machine"))
    try:
        assert (await http.get("/v2/health/ready")).status_code == 200
        # A probe of the model itself is answered at once.
        response = await http.get("/v2/models/new/ready")
        assert (response.status_code, response.json()["error"].split(";")[0]) == (503, "no replica of new is available")
    finally:
        store.end_change(change, "failed", restore=True)
    assert (await http.get("/v2/models/new/ready")).status_code == 404


async def test_the_service_has_started_once_everything_ran_or_failed_and_for_good(
    http: httpx.AsyncClient, catalog: Catalog, applications: dict[str, SimpleNamespace]
) -> None:
    async def get_started() -> int:
        catalog.status._fetched_s = float("-inf")
        return (await http.get("/v2/health/started")).status_code

    applications["images"].deployments["replica"].replica_states = {"STARTING": 1}
    applications["images"].status.value = "DEPLOYING"
    assert await get_started() == 503
    applications["images"].status.value = "DEPLOY_FAILED"
    assert await get_started() == 200
    assert (await http.get("/v2/health/ready")).status_code == 503
    del applications["images"]
    assert await get_started() == 200


def make_report(responses: dict[int, int], uptime_s: float = 100.0) -> ReplicaReport:
    histogram = LatencyHistogram()
    for _ in range(sum(responses.values())):
        histogram.record(0.01)
    return ReplicaReport(uptime_s, 3, responses, tuple(histogram.counts), PassReport(queued_rows=7))


async def test_deployments_are_listed_with_the_versions_that_answer_and_their_traffic(
    catalog: Catalog,
    local_client: LocalClient,
    serving_settings: ServingSettings,
    applications: dict[str, SimpleNamespace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    details = {
        name: {
            "status": "RUNNING",
            "deployments": {"replica": {"target_num_replicas": 2, "message": "", "replicas": []}},
        }
        for name in ("flowers", "images")
    }
    details["images"]["status"] = "DEPLOY_FAILED"
    details["images"]["message"] = "Traceback\n  ...\nValueError: no memory"
    monkeypatch.setattr("deployments.control.status.fetch_serve_details", lambda: details)
    members = [
        Member(f"{name}-{index}", Route(name, 30.0), "127.0.0.1:1", version, "fp32")
        for index, (name, version) in enumerate([("flowers", 1), ("flowers", 2), ("flowers", 2), ("images", 1)])
    ]
    before, after = make_report({200: 100}), make_report({200: 150, 503: 20})
    windows = [
        (members[0], Window(10.0, before, after)),
        (members[1], Window(5.0, None, make_report({200: 10}, 5.0))),
        (members[2], None),
        (members[3], Window(10.0, after, after)),
    ]

    async def fetch_windows() -> Any:
        return windows

    api = build_api(catalog, local_client, serving_settings, "http://test", fetch_windows)  # type: ignore[arg-type]
    async with open_client(make_asgi_app(api)) as http:
        deployments = {each["name"]: each for each in (await http.get("/api/v1/deployments")).json()["deployments"]}

    flowers, images, twice = (deployments[name] for name in ("flowers", "images", "twice"))
    assert flowers["versions"] == [
        {"version": 2, "variant": "fp32", "weight": 66.67, "replicas": 2},
        {"version": 1, "variant": "fp32", "weight": 33.33, "replicas": 1},
    ]
    assert (flowers["replicas"], flowers["target_replicas"], flowers["reason"]) == (3, 2, "")
    traffic = flowers["traffic"]
    assert (traffic["requests_per_s"], traffic["errors_per_s"]) == (9.0, 2.0)
    assert 0.01 <= traffic["p50_s"] <= traffic["p99_s"] < 0.011
    assert (traffic["ongoing"], traffic["queued_rows"]) == (6, 14)
    assert (images["status"], images["reason"]) == ("DEPLOY_FAILED", "ValueError: no memory")
    assert (images["traffic"]["requests_per_s"], images["traffic"]["p50_s"]) == (0.0, None)
    assert (twice["kind"], twice["status"], twice["versions"], twice["target_replicas"]) == (
        "pipeline",
        "NOT_STARTED",
        [],
        None,
    )
