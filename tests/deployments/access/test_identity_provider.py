"""The provider's keys: found by discovery, rotated, withdrawn, good for a bounded time while it is away."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from joserfc.jwk import ECKey

from deployments.access.sso import identity_provider as provider_module
from deployments.access.sso.identity_provider import IdentityProvider
from deployments.errors import Unavailable
from deployments.server.request import Response
from tests.deployments.access.local_provider import KEYS, LocalProvider, publish, run_provider

pytestmark = pytest.mark.anyio
DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture
async def provider() -> AsyncIterator[LocalProvider]:
    async with run_provider() as provider:
        yield provider


def build(provider: LocalProvider, refresh_s: float = 300.0, max_outage_s: float = 300.0, **options: Any) -> Any:
    return IdentityProvider(provider.issuer, refresh_s, max_outage_s, **options)


@contextlib.asynccontextmanager
async def run(identities: IdentityProvider) -> AsyncIterator[None]:
    task = asyncio.ensure_future(identities.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def wait_until(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def respond(content: Any, status: int = 200, **headers: str) -> Response:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Response(status, json.dumps(content).encode(), headers=fields)


async def test_many_who_ask_at_once_have_the_keys_fetched_once(provider: LocalProvider) -> None:
    identities = build(provider)

    keys = await asyncio.gather(*(identities.find_key("rsa", "RS256") for _ in range(50)))

    assert all(key is not None and key is keys[0] for key in keys)
    assert provider.fetches == [DISCOVERY, "/jwks"]


async def test_one_who_leaves_does_not_end_the_fetch_of_the_others(provider: LocalProvider) -> None:
    identities = build(provider)
    first = asyncio.ensure_future(identities.find_key("rsa", "RS256"))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(identities.find_key("rsa", "RS256"))
    await asyncio.sleep(0)
    first.cancel()

    assert await second is not None
    assert provider.fetches == [DISCOVERY, "/jwks"]


async def test_unknown_keys_have_them_fetched_so_often_at_most(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities = build(provider)
    assert await identities.find_key("rsa", "RS256")
    provider.keys.append(publish(ECKey.generate_key("P-256", {"kid": "new"})))

    for number in range(100):
        assert await identities.find_key(f"unknown-{number}", "RS256") is None
    assert await identities.find_key("new", "ES256") is None
    assert len(provider.fetches) == 2

    monkeypatch.setattr(provider_module, "MIN_REFETCH_S", 0.0)
    assert await identities.find_key("new", "ES256")
    assert len(provider.fetches) == 4


async def test_a_withdrawn_key_is_good_until_the_next_fetch_and_is_told_of(provider: LocalProvider) -> None:
    told = []
    identities = build(provider, 0.1, on_withdrawn=lambda: told.append(time.monotonic()))
    async with run(identities):
        await wait_until(lambda: identities._keys.keys)
        provider.keys.append(publish(ECKey.generate_key("P-256", {"kid": "new"})))
        await wait_until(lambda: len(identities._keys.keys) == 4)
        assert told == []

        provider.keys = provider.keys[1:]
        await wait_until(lambda: told)
        assert await identities.find_key("rsa", "RS256") is None
        # The same name, another key.
        provider.keys[0] = publish(ECKey.generate_key("P-256", {"kid": "ec"}))
        await wait_until(lambda: len(told) == 2)


async def test_keys_are_good_for_a_bounded_time_while_the_provider_is_away(provider: LocalProvider) -> None:
    told: list[bool] = []
    identities = build(provider, 0.1, 0.8, on_withdrawn=lambda: told.append(True))
    async with run(identities):
        await wait_until(lambda: identities._keys.keys)
        await provider.stop()
        await asyncio.sleep(0.4)
        assert await identities.find_key("rsa", "RS256")

        await wait_until(lambda: told)
        with pytest.raises(Unavailable, match="provider does not answer"):
            await identities.find_key("rsa", "RS256")


async def test_a_provider_that_comes_later_is_found(provider: LocalProvider) -> None:
    provider.responses[DISCOVERY] = respond({}, 503)
    identities = build(provider)
    async with run(identities):
        with pytest.raises(Unavailable):
            await identities.find_key("rsa", "RS256")
        provider.responses.clear()
        await wait_until(lambda: identities._keys.keys)
        assert await identities.find_key("rsa", "RS256")


@pytest.mark.parametrize(
    ("path", "build_response"),
    [
        (DISCOVERY, lambda url: respond({"issuer": "https://evil.example.com", "jwks_uri": f"{url}/jwks"})),
        (DISCOVERY, lambda url: respond({"issuer": f"{url}/", "jwks_uri": f"{url}/jwks"})),
        (DISCOVERY, lambda url: respond({"jwks_uri": f"{url}/jwks"})),
        (DISCOVERY, lambda url: respond({"issuer": url})),
        (DISCOVERY, lambda url: respond({"issuer": url, "jwks_uri": "http://192.0.2.1/jwks"})),
        (DISCOVERY, lambda url: respond({"issuer": url, "jwks_uri": "file:///etc/passwd"})),
        (DISCOVERY, lambda url: respond({"issuer": url, "jwks_uri": ["x"]})),
        (DISCOVERY, lambda url: respond([])),
        (DISCOVERY, lambda url: Response(200, b"<html>")),
        (DISCOVERY, lambda url: Response(302, b"", headers=[(b"location", f"{url}/other".encode())])),
        ("/jwks", lambda url: Response(302, b"", headers=[(b"location", f"{url}/other".encode())])),
        ("/jwks", lambda url: respond({"keys": publish(KEYS["RS256"])})),
        ("/jwks", lambda url: respond({"keys": [publish(KEYS["RS256"])] * 101})),
        ("/jwks", lambda url: respond({"keys": [], "x": "x" * 600_000})),
        ("/jwks", lambda url: Response(200, b'{"keys":[],"keys":[]}')),
        ("/jwks", lambda url: Response(200, b"\xff")),
        ("/jwks", lambda url: respond({}, 500)),
    ],
)
async def test_what_is_no_providers_answer_is_not_believed(
    provider: LocalProvider, path: str, build_response: Callable[[str], Response]
) -> None:
    provider.responses = {path: build_response(provider.issuer), "/other": respond({"keys": provider.keys})}

    with pytest.raises(Unavailable):
        await build(provider).find_key("rsa", "RS256")

    assert "/other" not in provider.fetches
