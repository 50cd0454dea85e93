"""Tokens of a real OpenID Connect provider, npm's oidc-provider, on a cluster of their own."""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import httpx
import pytest

from deployments.client import Client
from deployments.errors import Forbidden, Unauthenticated
from deployments.protocols.grpc import messages
from tests.conftest import ShoalCli, make_shoal_cli
from tests.deployments.access.local_provider import AUDIENCE
from tests.deployments.access.real_provider import RealProvider, needs_node, run_real_provider
from tests.small_bundles import save_table

pytestmark = [pytest.mark.soak, needs_node]
ROW = [5.1, 3.5, 1.4, 0.2]


@dataclass
class Service:
    """The cluster."""

    url: str
    grpc_address: str
    shoal: ShoalCli
    environment: dict[str, str]

    def get(self, token: str, path: str = "/v2/models/flowers") -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"}
        return httpx.get(self.url + path, headers=headers, trust_env=False, timeout=30)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProvider]:
    with run_real_provider(tmp_path_factory.mktemp("provider")) as provider:
        yield provider


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, provider: RealProvider) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("sso")
    environment = {
        "SHOAL_OIDC_ISSUER": provider.issuer,
        "SHOAL_OIDC_AUDIENCE": AUDIENCE,
        "SHOAL_OIDC__SCOPES": "ml-team=predict:flowers,read:*; ops=manager",
    }
    shoal = make_shoal_cli(folder / "home")
    try:
        started = shoal("up", env=environment)
        assert started.returncode == 0, started.stderr
        lines = dict(line.split(": ", 1) for line in started.stdout.splitlines())
        save_table(folder / "flowers")
        assert shoal("models", "import", str(folder / "flowers"), env=environment).returncode == 0
        deployed = shoal("deploy", "flowers", env=environment)
        assert deployed.returncode == 0, deployed.stderr
        yield Service(lines["up"], lines["grpc"], shoal, environment)
    finally:
        shoal("down", env=environment)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA", "Ed25519"])
def test_a_token_predicts_as_a_key_does(service: Service, provider: RealProvider, algorithm: str) -> None:
    token = provider.fetch_token(algorithm)

    with Client(service.url, token) as client:
        assert client.predict("flowers", [ROW])[0]["label"] in ("a", "b", "c")
        assert [model["name"] for model in client.models()] == ["flowers"]
    with grpc.insecure_channel(service.grpc_address) as channel:
        call = channel.unary_unary(
            f"/{messages.SERVICE_NAME}/ModelMetadata",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages.ModelMetadataResponse.FromString,
        )
        metadata = (("authorization", f"Bearer {token}"),)
        assert call(messages.ModelMetadataRequest(name="flowers"), metadata=metadata, timeout=30).name == "flowers"


def test_a_token_does_what_its_groups_allow_and_no_more(service: Service, provider: RealProvider) -> None:
    member, manager = provider.fetch_token("RS256"), provider.fetch_token("RS256", "ops")

    key = {"tenant": "default", "name": "made-by-token", "allow": "read:*"}
    for token, status in ((member, 403), (manager, 201)):
        headers = {"authorization": f"Bearer {token}"}
        response = httpx.post(f"{service.url}/api/v1/keys", headers=headers, json=key, trust_env=False, timeout=30)
        assert response.status_code == status, response.text
    assert service.get(member, "/metrics").status_code == 403
    with Client(service.url, provider.fetch_token("ES256", "nobody")) as client, pytest.raises(Forbidden):
        client.models()
    listed = service.shoal("keys", "list", "--json", env=service.environment)
    assert '"created_by": "default/oidc:rs256.ops~' in listed.stdout


def test_what_the_provider_signs_in_other_ways_or_for_others_is_refused(
    service: Service, provider: RealProvider
) -> None:
    for token in (provider.fetch_token("PS256"), provider.fetch_token("RS256", resource="https://other.example.com")):
        with Client(service.url, token) as client, pytest.raises(Unauthenticated):
            client.models()
