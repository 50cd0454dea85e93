"""What changes the platform is not done for another site's page: over real sockets, for any route below /api/."""

from collections.abc import Iterator

import httpx
import pytest

from deployments.server.cross_site import CrossSiteCheck
from deployments.server.middleware import HttpApp
from deployments.server.request import Request, Response
from tests.deployments.local_server import run_http_server

ALLOWED, EVIL = "https://app.example:8443", "https://evil.example"
KEYS = "/api/v1/keys"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    async def handle(request: Request) -> Response:
        return Response(200, b"{}")

    with (
        run_http_server(HttpApp(handle, (CrossSiteCheck([ALLOWED]),), 1000)) as url,
        httpx.Client(base_url=url) as client,
    ):
        yield client


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": EVIL}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ALLOWED}, 200),
        ({"origin": ALLOWED, "sec-fetch-site": "cross-site"}, 200),
        ({"origin": ALLOWED + ".evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "anything else"}, 403),
        ({"origin": EVIL, "sec-fetch-site": "cross-site"}, 403),
    ],
    ids=str,
)
def test_only_pages_of_this_service_and_of_named_origins_may_change_things(
    http: httpx.Client, method: str, headers: dict[str, str], status: int
) -> None:
    response = http.request(method, KEYS, content=b"{}", headers=JSON | headers)

    assert response.status_code == status
    if status == 403:
        assert response.json()["error"]["code"] == "cross_site"


def test_without_fetch_metadata_the_origin_is_compared_with_the_host(http: httpx.Client) -> None:
    own = str(http.base_url).rstrip("/")

    assert http.post(KEYS, content=b"{}", headers=JSON | {"origin": own}).status_code == 200
    assert http.post(KEYS, content=b"{}", headers=JSON | {"origin": own + "1"}).status_code == 403


@pytest.mark.parametrize("path", ["/api/v1/keys/a", "/api/v2/new", "/%61pi/v1/keys"])
def test_a_route_that_does_not_exist_yet_is_covered(http: httpx.Client, path: str) -> None:
    assert http.delete(path, headers={"origin": EVIL}).status_code == 403


@pytest.mark.parametrize("path", [KEYS, "/v2/models/m/infer"])
def test_what_changes_nothing_is_for_every_page_that_has_a_key(http: httpx.Client, path: str) -> None:
    method = "GET" if path == KEYS else "POST"

    assert http.request(method, path, headers={"origin": EVIL, "sec-fetch-site": "cross-site"}).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "Multipart/Form-Data; boundary=x"]
)
def test_a_body_of_a_form_is_refused(http: httpx.Client, content_type: str) -> None:
    response = http.post(KEYS, content=b"{}", headers={"content-type": content_type} if content_type else {})

    assert response.status_code == 415
    assert http.post(KEYS).status_code == 200
