"""Tokens of a real OpenID Connect provider, npm's oidc-provider, through the edge."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from deployments.access.caller import parse_caller
from deployments.access.scopes import Action
from deployments.settings import OidcSettings, ServingSettings
from tests.deployments.access.local_provider import AUDIENCE
from tests.deployments.access.real_provider import RealProvider, generate_keys, needs_node, run_real_provider
from tests.deployments.edge.local_edge import LocalEdge, run_edge
from tests.deployments.edge.test_token_requests import count_verified, get_caller, send

pytestmark = [pytest.mark.anyio, pytest.mark.soak, needs_node]
REFRESH_S = 1


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProvider]:
    with run_real_provider(tmp_path_factory.mktemp("provider")) as provider:
        yield provider


@pytest.fixture(scope="module")
async def edge(
    tmp_path_factory: pytest.TempPathFactory, provider: RealProvider, anyio_backend: str
) -> AsyncIterator[LocalEdge]:
    folder = tmp_path_factory.mktemp("edge")
    oidc = OidcSettings(scopes="ml-team=caller; ops=manager", jwks_refresh_s=REFRESH_S)
    settings = ServingSettings(home=folder, oidc_issuer=provider.issuer, oidc_audience=AUDIENCE, oidc=oidc)
    async with run_edge(folder, settings=settings) as edge:
        yield edge


async def fetch(provider: RealProvider, *arguments: str) -> str:
    return await asyncio.to_thread(provider.fetch_token, *arguments)


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(REFRESH_S + 5):
        while not await condition():
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA", "Ed25519"])
async def test_its_tokens_are_verified_once(edge: LocalEdge, provider: RealProvider, algorithm: str) -> None:
    token, before = await fetch(provider, algorithm, "ops"), count_verified(edge)

    for _ in range(5):
        response = await send(edge, token)
        assert response.status_code == 200, response.text
        caller = parse_caller(get_caller(response).encode())
        assert caller.name.startswith(f"default/oidc:{algorithm.lower()}.ops~")
        assert caller.may(Action.KEYS, "default")
        assert caller.expires_s <= time.time() + 120 + 60
    assert count_verified(edge) == before + 1


async def test_what_it_signs_in_other_ways_or_for_others_is_refused(edge: LocalEdge, provider: RealProvider) -> None:
    for token, status, message in (
        (await fetch(provider, "PS256"), 401, "algorithm"),
        (await fetch(provider, "RS256", "ml-team", "https://other.example.com"), 401, "another audience"),
        (await fetch(provider, "RS256", "nobody"), 403, "allow nothing here"),
    ):
        response = await send(edge, token)
        assert (response.status_code, message in response.text) == (status, True), response.text


async def test_its_keys_are_rotated_without_a_restart(edge: LocalEdge, provider: RealProvider) -> None:
    """Last: its first keys are gone after it."""
    old_keys, new_keys = generate_keys("old"), generate_keys("new")

    async def start(keys: list[dict[str, object]]) -> None:
        await asyncio.to_thread(provider.start, keys)

    async def is_status(token: str, status: int) -> bool:
        return (await send(edge, token)).status_code == status

    pids = edge.pids
    await start(old_keys)
    old = await fetch(provider, "RS256")
    await wait_for(lambda: is_status(old, 200))

    await start([*new_keys, *old_keys])
    both = await fetch(provider, "RS256")
    await wait_for(lambda: is_status(both, 200))
    assert await is_status(old, 200)

    await start(new_keys)
    new, unused = await fetch(provider, "ES256"), await fetch(provider, "EdDSA")
    await wait_for(lambda: is_status(old, 401))
    assert await is_status(new, 200)

    # Away, with its last keys good for an hour.
    provider.stop()
    await asyncio.sleep(2 * REFRESH_S)
    assert await is_status(new, 200)
    assert await is_status(unused, 200)
    assert edge.pids == pids
