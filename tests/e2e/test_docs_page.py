"""The docs page of all models in a browser, with user name and password."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.settings import Settings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not work for root, who runs tests in containers.
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser: Browser, serving_cluster: Cluster, settings: Settings) -> Iterator[Page]:
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    context = browser.new_context(
        http_credentials={"username": "anyone", "password": key}, base_url=serving_cluster.url
    )
    yield context.new_page()
    context.close()


def test_the_page_opens_with_a_password_and_shows_each_model_once(page: Page) -> None:
    failed_urls: list[str] = []
    page.on("requestfailed", lambda request: failed_urls.append(request.url))
    external_urls: list[str] = []
    page.on("request", lambda request: external_urls.append(request.url) if "127.0.0.1" not in request.url else None)

    response = page.goto("/docs")

    assert response is not None
    assert response.status == 200
    expect(page.locator("h3.opblock-tag", has_text="flowers")).to_have_count(1)
    # How to call a model comes first, and nothing is loaded from another host.
    assert "curl" in page.locator(".information-container").inner_text()
    assert not failed_urls
    assert not [url for url in external_urls if not url.startswith("data:")]


def test_a_model_can_be_called_from_the_page_with_the_key(page: Page, settings: Settings) -> None:
    page.goto("/docs")
    # The browser's password opens the page alone: what it sends by itself, another site's page could have it send.
    page.get_by_role("button", name="Authorize").click()
    dialog = page.locator(".modal-ux")
    dialog.locator("input").fill(secrets.read_secret(settings.home, secrets.ADMIN_KEY))
    dialog.get_by_role("button", name="Apply credentials").click()
    dialog.get_by_role("button", name="Close").first.click()
    operation = page.locator(".opblock-post", has_text="/v2/models/flowers/predict").first
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()

    row = operation.locator(".live-responses-table tr.response").last
    expect(row.locator("td.response-col_status")).to_contain_text("200")
    assert '"model": "flowers"' in row.locator("td.response-col_description").inner_text()


def test_without_the_password_nothing_is_shown(browser: Browser, serving_cluster: Cluster) -> None:
    context = browser.new_context(
        http_credentials={"username": "anyone", "password": "wrong"}, base_url=serving_cluster.url
    )

    response = context.new_page().goto("/docs")

    assert response is not None
    assert response.status == 401
    context.close()
