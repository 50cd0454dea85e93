"""Another site's page in a real browser, whose user has the service's password and Ray's cookie, changes nothing."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from playwright.sync_api import Browser

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from tests.e2e.test_docs_page import CHROMIUM, browser

__all__ = ["browser"]
PREDICT = "/api/v1/models/flowers/predict"
PAGE = b"<!doctype html><form method=post enctype=text/plain><input name=x></form>"
ATTACK = """async ([url, type]) => {
    const options = {method: "POST", body: '{"inputs": [[1, 2, 3, 4]]}', credentials: "include", mode: "no-cors"};
    if (type) options.headers = {"content-type": type};
    try { return (await fetch(url, options)).type } catch (error) { return "failed" }
}"""


@pytest.fixture
def other_site() -> Iterator[str]:
    """A page on another port of this machine, under another name: another site."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_every_route_that_changes_something_refuses_another_sites_page(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    routes = [
        (method.upper(), path.replace("{name}", "flowers"))
        for path, operations in paths.items()
        for method in operations
        if method != "get" and path.startswith("/api/")
    ]
    assert ("POST", PREDICT) in routes

    for method, path in routes:
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "same-site"}):
            response = http.request(method, path, json={"inputs": [[1, 2, 3, 4]]}, headers=headers)
            assert response.status_code == 403, (method, path)
            assert response.json()["error"]["code"] == "cross_site"


def test_rays_dashboard_takes_no_change_from_a_browser(serving_cluster: Cluster, settings: Settings) -> None:
    token = secrets.read_secret(settings.home, secrets.RAY_TOKEN)
    cookie = {"Cookie": f"ray-authentication-token={token}"}
    for method, path in (("POST", "/api/jobs/"), ("PUT", "/api/serve/applications/"), ("DELETE", "/api/jobs/x")):
        for header in ({"Origin": "https://evil.example"}, {"User-Agent": "Mozilla/5.0"}, {"Sec-Fetch-Site": "none"}):
            url, body = serving_cluster.dashboard_url + path, {"entrypoint": "true"}
            response = httpx.request(method, url, json=body, headers=cookie | header, trust_env=False)
            assert response.status_code == 405, (method, path, header)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_a_browsers_password_and_cookies_are_of_no_use_to_another_page(
    browser: Browser, serving_cluster: Cluster, settings: Settings, other_site: str
) -> None:
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    context = browser.new_context(http_credentials={"username": "anyone", "password": key})
    try:
        page = context.new_page()
        docs = page.goto(f"{serving_cluster.url}/docs")
        assert docs is not None
        assert docs.status == 200
        statuses: list[tuple[str, int]] = []
        page.on("response", lambda response: statuses.append((response.request.method, response.status)))
        page.goto(other_site)

        targets = [
            (serving_cluster.url + PREDICT, ""),
            (f"{serving_cluster.url}/v2/models/flowers/predict", "text/plain"),
            (f"{serving_cluster.dashboard_url}/api/jobs/", ""),
        ]
        for target in targets:
            page.evaluate(ATTACK, list(target))
        # A form asks no permission either.
        with page.expect_response(lambda response: response.request.is_navigation_request()):
            page.evaluate(f"document.forms[0].action = '{serving_cluster.url}{PREDICT}'; document.forms[0].submit()")
    finally:
        context.close()

    posted = [status for method, status in statuses if method == "POST"]
    assert len(posted) == 4
    assert set(posted) <= {401, 403, 405}
