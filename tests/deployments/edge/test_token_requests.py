"""Tokens of an identity provider through the edge: as good as keys, refused in time, and no cost to others."""

import asyncio
import base64
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from joserfc.jwk import RSAKey

from deployments.access.caller import parse_caller
from deployments.access.scopes import Action
from deployments.access.sso import identity_provider as provider_module
from deployments.edge.state import CONTROL, GRPC, Member
from deployments.protocols.grpc import messages
from tests.deployments.access.local_provider import KEYS, LocalProvider, encode, publish, run_provider
from tests.deployments.edge.local_edge import AUTHORIZATION, KEY, LocalEdge, build_route, run_edge
from tests.deployments.edge.test_grpc_frontend import Gateway, call, open_channel
from tests.deployments.server.raw_http import open_raw

pytestmark = pytest.mark.anyio
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "rsa"})
PATH, INFER = "/v2/models/flowers/ready", f"/{messages.SERVICE_NAME}/ModelInfer"


@pytest.fixture(scope="module")
async def provider(anyio_backend: str) -> AsyncIterator[LocalProvider]:
    async with run_provider() as provider:
        yield provider


@contextlib.asynccontextmanager
async def run_token_edge(folder: Path, provider: LocalProvider, **oidc: Any) -> AsyncIterator[LocalEdge]:
    async with run_edge(folder, settings=provider.build_settings(home=folder, **oidc)) as edge:
        yield edge


@pytest.fixture(scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory, provider: LocalProvider) -> AsyncIterator[LocalEdge]:
    async with run_token_edge(tmp_path_factory.mktemp("tokens"), provider) as edge:
        yield edge


async def send(edge: LocalEdge, token: str, path: str = PATH, **options: Any) -> httpx.Response:
    # Without verification the client reads no certificates, which takes longer than all the rest.
    async with edge.open_http(headers={"authorization": f"Bearer {token}"}, verify=False) as http:
        return await http.get(path, **options)


def get_caller(response: httpx.Response) -> str:
    (value,) = [value for name, value in response.json()["headers"] if name == "x-shoal-caller"]
    return str(value)


def count_verified(edge: LocalEdge) -> int:
    return int(edge.edge._tokens.verified)


async def test_a_token_is_verified_once_and_is_as_good_as_a_key(edge: LocalEdge, provider: LocalProvider) -> None:
    for algorithm in KEYS:
        token, before = provider.build_token(algorithm, groups=["ml"]), count_verified(edge)
        async with edge.open_http(headers={"authorization": f"Bearer {token}"}, verify=False) as http:
            for _ in range(20):
                response = await http.get(PATH)
                assert response.status_code == 200
                assert "authorization" not in dict(response.json()["headers"])
                caller = parse_caller(get_caller(response).encode())
                assert (caller.name, caller.may(Action.PREDICT, "x")) == ("default/oidc:alice", True)
                assert not caller.may(Action.DEPLOY, "x")
        assert count_verified(edge) == before + 1
    before = count_verified(edge)
    assert (await send(edge, KEY)).status_code == 200
    assert count_verified(edge) == before


async def test_a_token_is_good_for_grpc_and_for_tritons_clients(folder: Path, provider: LocalProvider) -> None:
    gateway = Gateway()
    member = Member("gateway", build_route(GRPC), f"127.0.0.1:{await gateway.start()}", protocol="grpc")
    async with (
        run_edge(folder, names=(CONTROL,), settings=provider.build_settings(home=folder)) as edge,
        open_channel(edge) as channel,
    ):
        await edge.directory.tell(members=(*edge.directory.state.members, member))
        token, forbidden = provider.build_token(), provider.build_token(groups=["other"])
        password = base64.b64encode(f"anybody:{token}".encode()).decode()
        for value in (f"Bearer {token}", f"Basic {password}", f"Bearer {token}"):
            assert await call(channel, INFER, metadata=(("authorization", value),)) == b"x"
            assert gateway.calls[-1][1]["x-shoal-caller"].startswith("default/oidc:alice|oidc-")
        assert count_verified(edge) == 1

        expired = provider.build_token(exp=int(time.time()) - 1)
        for refused, code, details in (
            (forbidden, grpc.StatusCode.PERMISSION_DENIED, "allow nothing here"),
            (expired, grpc.StatusCode.UNAUTHENTICATED, "the token has expired"),
            (provider.build_token(key=OTHER_KEY), grpc.StatusCode.UNAUTHENTICATED, "signature"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(channel, INFER, metadata=(("authorization", f"Bearer {refused}"),))
            assert error.value.code() == code
            assert details in (error.value.details() or "")
    await gateway.stop()


@pytest.mark.parametrize("path", [PATH, "/api/v1/models", "/v2/models/flowers/predict"])
async def test_a_refusal_has_its_status_and_the_form_of_its_path(
    edge: LocalEdge, provider: LocalProvider, path: str
) -> None:
    signed = f"{encode({'alg': 'none'})}.{encode(provider.build_claims())}"
    cases = [
        (provider.build_token(exp=int(time.time()) - 1), 401, "the token has expired"),
        (provider.build_token(aud="other"), 401, "another audience"),
        (provider.build_token(key=OTHER_KEY), 401, "signature"),
        (provider.build_token(groups=["other"]), 403, "allow nothing here"),
        (provider.build_token(filler="x" * 8192), 401, "more than 8192 bytes"),
        (f"{signed}.x", 401, "no valid"),
        (f"{signed}.{encode(b'x')}", 401, "algorithm"),
        (f"{signed}.", 401, "unknown API key"),
        (signed, 401, "unknown API key"),
    ]
    for token, status, message in cases:
        response = await send(edge, token, path)
        error = response.json()["error"]
        if path != PATH:
            assert error["code"] == {401: "unauthenticated", 403: "forbidden"}[status]
        assert (response.status_code, message in str(error)) == (status, True), (response.text, message)
        assert response.headers["x-request-id"]


async def test_a_token_is_no_good_a_second_after_it_expires(edge: LocalEdge, provider: LocalProvider) -> None:
    token, kept = provider.build_token(exp=int(time.time()) + 2), provider.build_token()
    expires_s = int(time.time()) + 2
    assert (await send(edge, token)).status_code == (await send(edge, kept)).status_code == 200
    async with edge.open_http(headers={"authorization": f"Bearer {token}"}) as http:
        while (await http.get(PATH)).status_code == 200:
            assert time.time() < expires_s + 1
            await asyncio.sleep(0.02)
        for _ in range(20):
            response = await http.get(PATH)
            assert (response.status_code, "expired" in response.text) == (401, True)
    before = count_verified(edge)
    assert (await send(edge, kept)).status_code == 200
    assert count_verified(edge) == before


async def test_tokens_are_verified_anew_when_a_key_is_withdrawn_in_the_process_before_a_reload_too(
    folder: Path, provider: LocalProvider
) -> None:
    keys = list(provider.keys)
    async with run_token_edge(folder, provider, jwks_refresh_s=1) as edge:
        withdrawn, kept = provider.build_token("RS256"), provider.build_token("ES256")
        async with open_raw(edge.http_port) as idle, edge.open_http() as old:
            header = f"authorization: Bearer {withdrawn}"
            assert (await idle.request("GET", PATH, b"", header)).status == 200
            may_end = asyncio.Event()
            sending = asyncio.ensure_future(old.post("/v2/models/flowers/infer", content=_send_until(may_end)))
            await asyncio.sleep(0.3)
            await edge.add("new-model")
            assert len(edge.pids) == 2
            # A new process knows no token, and takes it.
            for token in (withdrawn, kept):
                assert (await send(edge, token)).status_code == 200

            provider.keys = [publish(KEYS["ES256"])]
            try:
                async with asyncio.timeout(2.5):
                    while (await send(edge, withdrawn)).status_code == 200:
                        await asyncio.sleep(0.05)
                await asyncio.sleep(0.5)
                assert (await send(edge, kept)).status_code == 200
                assert (await idle.request("GET", PATH, b"", header)).status == 401
                assert len(edge.pids) == 2
            finally:
                provider.keys = keys
            may_end.set()
            assert (await sending).status_code == 200


async def _send_until(event: asyncio.Event) -> AsyncIterator[bytes]:
    yield b"x" * 40_000
    await event.wait()
    yield b"x"


async def test_a_key_that_the_provider_adds_is_known_at_its_first_token(
    edge: LocalEdge, provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await send(edge, provider.build_token())).status_code == 200
    new_key = RSAKey.generate_key(2048, {"kid": "new"})
    provider.keys.append(publish(new_key))
    monkeypatch.setattr(provider_module, "MIN_REFETCH_S", 0.0)
    try:
        assert (await send(edge, provider.build_token(key=new_key))).status_code == 200
    finally:
        provider.keys.pop()


async def test_keys_go_on_without_a_provider_and_tokens_are_told_to_come_again(folder: Path) -> None:
    async with run_provider() as provider:
        settings = provider.build_settings(home=folder)
        token = provider.build_token()
    async with run_edge(folder, settings=settings) as edge:
        response = await send(edge, token)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "their provider does not answer" in response.text
        async with edge.open_http() as http:
            assert (await http.get(PATH)).status_code == 200


async def test_without_the_edges_process_known_tokens_go_on(folder: Path, provider: LocalProvider) -> None:
    async with run_token_edge(folder, provider) as edge:
        known, unknown = provider.build_token(), provider.build_token("ES256")
        assert (await send(edge, known)).status_code == 200
        await edge.edge._tokens.close()

        assert (await send(edge, known)).status_code == 200
        response = await send(edge, unknown)
    assert (response.status_code, "cannot be verified now" in response.text) == (503, True)


async def test_a_flood_of_invalid_tokens_reaches_python_seldom_and_valid_callers_never(
    folder: Path, provider: LocalProvider
) -> None:
    async with run_token_edge(folder, provider) as edge:
        token, is_over, statuses = provider.build_token(), asyncio.Event(), list[int]()
        assert (await send(edge, token)).status_code == 200

        async def load(headers: dict[str, str]) -> None:
            async with edge.open_http(headers=headers) as http:
                while not is_over.is_set():
                    statuses.append((await http.get(PATH)).status_code)

        callers = [asyncio.ensure_future(load(each)) for each in ({"authorization": f"Bearer {token}"}, AUTHORIZATION)]
        signed = token.rpartition(".")[0]
        counts = await asyncio.gather(*(flood(edge.http_port, signed) for _ in range(20)))
        is_over.set()
        await asyncio.gather(*callers)

        assert sum(counts, Counter()).keys() == {b"401", b"429"}
        assert set(statuses) == {200}
        assert len(statuses) > 20
        # 50 in 10 s, and those that were under way.
        assert count_verified(edge) < 1000
        response = await send(edge, f"{signed}.x")
        assert (response.status_code, response.headers["retry-after"]) == (429, "10")


async def flood(port: int, signed: str) -> Counter[bytes]:
    """Send 500 requests with tokens that nobody has signed, 25 at a time; counts the statuses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    statuses: Counter[bytes] = Counter()
    for _ in range(20):
        tokens = [f"{signed}.{encode(secrets.token_bytes(256))}" for _ in range(25)]
        requests = [f"GET {PATH} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {token}\r\n\r\n" for token in tokens]
        writer.write("".join(requests).encode())
        for _ in tokens:
            head = await reader.readuntil(b"\r\n\r\n")
            statuses[head[9:12]] += 1
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
    writer.close()
    return statuses


async def test_a_token_that_is_sent_again_and_again_is_seldom_verified(
    edge: LocalEdge, provider: LocalProvider
) -> None:
    expired = provider.build_token(exp=int(time.time()) - 1)
    async with edge.open_http(headers={"authorization": f"Bearer {expired}"}) as http:
        started_s = time.monotonic()
        before = count_verified(edge)
        for _ in range(200):
            assert (await http.get(PATH)).status_code == 401
        assert 1 <= count_verified(edge) - before <= 2 + (time.monotonic() - started_s) / 2


async def test_health_asks_nobody_about_a_token(edge: LocalEdge, provider: LocalProvider) -> None:
    before = count_verified(edge)
    for token in (provider.build_token(sub="bob"), provider.build_token(key=OTHER_KEY)):
        assert (await send(edge, token, "/v2/health/live")).status_code == 200
    assert count_verified(edge) == before


async def test_tokens_are_in_no_log_and_no_file(folder: Path, provider: LocalProvider) -> None:
    tokens = [provider.build_token(), provider.build_token(key=OTHER_KEY)]
    settings = provider.build_settings(home=folder)
    settings = settings.model_copy(update={"edge": settings.edge.model_copy(update={"access_log": True})})
    async with run_edge(folder, settings=settings) as edge:
        for token in tokens:
            await send(edge, token)
        refused = await send(edge, provider.build_token(sub="bob", groups=["other"]))
        assert refused.status_code == 403
        log = await edge.read_log()
        # Who was refused.
        assert '"caller":"default/oidc:bob"' in log
        assert '"caller":"default/oidc:alice"' in log
        contents = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    for token in tokens:
        for part in token.split("."):
            assert not any(part.encode() in content for content in contents)


async def test_without_an_issuer_a_token_is_an_unknown_key(folder: Path, provider: LocalProvider) -> None:
    async with run_edge(folder) as edge:
        response = await send(edge, provider.build_token())
        assert (response.status_code, "unknown API key" in response.text) == (401, True)
        assert "verify_token" not in next((folder / "edge").glob("haproxy-*.cfg")).read_text()
        assert (await send(edge, KEY)).status_code == 200
