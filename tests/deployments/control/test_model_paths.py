"""A model's own paths at the control application, for requests that find none of its replicas up."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from deployments.access.authorization import Authorization
from deployments.control.app import build_api
from deployments.control.catalog import Catalog
from deployments.errors import CallError, DeadlineExceeded, Unavailable
from deployments.protocols.oip.binary import HEADER_LENGTH
from deployments.server.asgi import AsgiHandler
from deployments.server.middleware import compose_http
from deployments.settings import Limits, ServingSettings
from tests.deployments.callers import TESTER_HEADER, encode_caller
from tests.deployments.control.conftest import LocalClient
from tests.deployments.server.apps import open_client

pytestmark = pytest.mark.anyio
SECRET = "of the edge"
TENSOR = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
PREFIXES = ("/v2/models/flowers", "/v2/models/flowers/versions/1")


@pytest.fixture
def settings(serving_settings: ServingSettings) -> ServingSettings:
    return serving_settings.model_copy(update={"limits": Limits(max_body_bytes=2000, request_timeout_s=7.0)})


def open_control(
    catalog: Catalog, client: Any, settings: ServingSettings
) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    """A client of the control application with its layers, as behind the edge."""
    handler = AsgiHandler(build_api(catalog, client, settings, "http://test"))
    app = compose_http(handler, settings.limits, SECRET, Authorization())
    return open_client(app, headers={"x-shoal-edge": SECRET, **TESTER_HEADER, "x-request-id": "r1"})


@pytest.fixture
async def http(catalog: Catalog, local_client: LocalClient, settings: ServingSettings) -> AsyncIterator[Any]:
    async with open_control(catalog, local_client, settings) as http:
        yield http


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_models_paths_reach_it_by_a_handle(
    http: httpx.AsyncClient, local_client: LocalClient, prefix: str
) -> None:
    infer = await http.post(f"{prefix}/infer", json={"inputs": [TENSOR]})
    predict = await http.post(f"{prefix}/predict", json={"inputs": [[5.1, 3.5, 1.4, 0.2]]})
    ready = await http.get(f"{prefix}/ready")
    metadata = await http.get(prefix)

    assert infer.json()["outputs"][0]["shape"] == [1, 3]
    assert predict.json()["predictions"][0]["label"] in ("a", "b", "c")
    assert local_client.timeouts_s[-2:] == pytest.approx([7.0, 7.0], abs=1)
    assert (ready.status_code, ready.json()) == (200, {"name": "flowers", "ready": True})
    assert (metadata.json()["name"], metadata.json()["versions"]) == ("flowers", ["1"])
    assert {each.headers["content-type"] for each in (infer, predict, metadata)} == {"application/json"}


async def test_a_call_is_split_by_what_the_edge_says_of_its_caller(
    http: httpx.AsyncClient, local_client: LocalClient
) -> None:
    headers = [(b"x-shoal-caller", encode_caller("ann").encode()), (b"x-request-id", b"r7")]
    headers += [(b"x-user", b"u0"), (b"x-user", "ü1".encode())]
    row = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}
    await http.post("/v2/models/flowers/infer", json={"inputs": [TENSOR]}, headers=headers)
    await http.post("/v2/models/flowers/predict", json=row, headers=headers)
    await http.post("/api/v1/models/flowers/predict", json=row, headers=headers)

    for origin in local_client.origins[-3:]:
        assert origin is not None
        assert (origin.caller, origin.request_id, origin.headers["x-user"]) == ("ann", "r7", "ü1")


async def test_a_time_that_is_over_is_the_one_that_the_caller_named(
    http: httpx.AsyncClient, local_client: LocalClient
) -> None:
    headers, before = {"x-request-timeout-seconds": "1e-9"}, len(local_client.timeouts_s)
    response = await http.post("/api/v1/models/flowers/predict", json={"inputs": [[1, 2, 3, 4]]}, headers=headers)

    assert response.status_code == 504
    assert response.json()["error"]["message"].startswith("no response within the request's timeout of 1e-09 s")
    assert len(local_client.timeouts_s) == before


async def test_binary_tensors_go_through_a_handle_as_they_are(http: httpx.AsyncClient) -> None:
    tensor = {key: value for key, value in TENSOR.items() if key != "data"}
    tensor["parameters"] = {"binary_data_size": 16}
    head = httpx.Request(
        "POST", "http://t", json={"inputs": [tensor], "parameters": {"binary_data_output": True}}
    ).content
    headers = {HEADER_LENGTH.decode(): str(len(head)), "content-type": "application/octet-stream"}

    response = await http.post("/v2/models/flowers/infer", content=head + bytes(16), headers=headers)

    length = int(response.headers[HEADER_LENGTH.decode()])
    assert response.headers["content-type"] == "application/octet-stream"
    assert len(response.content) == length + 12


@pytest.mark.parametrize("path", ["infer", "predict", "ready", ""])
async def test_another_version_is_not_the_deployed_one(http: httpx.AsyncClient, path: str) -> None:
    url = f"/v2/models/flowers/versions/2/{path}".rstrip("/")

    response = await (http.get(url) if path in ("ready", "") else http.post(url, json={"inputs": [[1, 2, 3, 4]]}))

    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "unknown_version" if path == "predict" else "version" in error


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/ready"), ("POST", "/infer"), ("POST", "/predict"), ("GET", "/example")],
)
async def test_a_model_that_is_not_deployed_is_named(http: httpx.AsyncClient, method: str, path: str) -> None:
    response = await http.request(method, f"/v2/models/roses{path}")

    assert response.status_code == 404
    assert "'roses'" in str(response.json()["error"])


@pytest.mark.parametrize("path", ["infer", "predict"])
async def test_the_body_is_checked_as_by_a_replica(http: httpx.AsyncClient, path: str) -> None:
    url = f"/v2/models/flowers/{path}"

    assert (await http.post(url, content=b"x" * 2001)).status_code == 413
    assert (await http.post(url, content=b"x", headers={"content-encoding": "gzip"})).status_code == 415
    assert (await http.post(url, content=b"{", headers={"content-type": "application/json"})).status_code == 400
    assert (await http.get(url)).status_code == 405


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data", "image/png"])
async def test_a_body_of_another_type_is_refused_as_by_a_replica(http: httpx.AsyncClient, content_type: str) -> None:
    body = httpx.Request("POST", "http://t", json={"inputs": [TENSOR]}).content

    response = await http.post("/v2/models/flowers/infer", content=body, headers={"content-type": content_type})

    assert response.status_code == 415


async def test_a_header_length_that_is_no_number_is_refused(http: httpx.AsyncClient) -> None:
    headers = {HEADER_LENGTH.decode(): "ten"}

    assert (await http.post("/v2/models/flowers/infer", content=b"{}", headers=headers)).status_code == 400


async def test_an_error_of_predict_has_shoals_form_and_one_of_infer_the_protocols(http: httpx.AsyncClient) -> None:
    predict = await http.post("/v2/models/flowers/predict", json={"inputs": []})
    infer = await http.post("/v2/models/flowers/infer", json={"inputs": []})

    assert predict.json()["error"] | {"message": ""} == {"code": "empty_request", "message": "", "request_id": "r1"}
    assert isinstance(infer.json()["error"], str)


class FailingClient:
    """A client whose model has no replica, or a slow one."""

    def __init__(self, error: CallError) -> None:
        self._error = error

    async def _fail(self, *_: Any, **__: Any) -> Any:
        raise self._error

    infer = predict = metadata = _fail


@pytest.mark.parametrize(
    ("error", "status"),
    [(Unavailable("no replica of flowers is available"), 503), (DeadlineExceeded("no response within 7 s"), 504)],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/ready"), ("POST", "/infer"), ("POST", "/predict"), ("GET", "/example")],
)
async def test_a_model_without_a_replica_gets_the_status_that_fits(
    catalog: Catalog, settings: ServingSettings, error: CallError, status: int, method: str, path: str
) -> None:
    async with open_control(catalog, FailingClient(error), settings) as http:
        response = await http.request(method, f"/v2/models/flowers{path}")

    assert response.status_code == status
    assert (response.headers.get("retry-after") == "1") == (status == 503)


@pytest.mark.parametrize("path", ["/v2/models/../flowers", "/v2/models/flowers/versions/1/x", "/v2/models//infer"])
async def test_an_odd_path_is_no_models(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(http.base_url.copy_with(raw_path=path.encode()))

    assert response.status_code in (404, 405)
