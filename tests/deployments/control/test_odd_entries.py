"""What another MLflow client put into the registry, or took out of it, hides nothing else."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from ray import serve

from cluster.cli.app import run
from deployments.control.app import build_api
from deployments.control.catalog import Catalog
from deployments.settings import ServingSettings
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
from deployments.state.store import DeploymentStore
from tests.deployments.server.apps import make_asgi_app, open_client
from training.registry.mlflow_store import MlflowStore
from training.registry.model_registry import Registry
from training.settings import TrainingSettings

pytestmark = pytest.mark.anyio

NAMES = ("o'neil", 'say "cheese"', "both ' and \"", "%", "two words", "狐")
SOURCES = ("s3x://elsewhere/1", "dbfs:/bundle", "mlflow-artifacts:/1", "nowhere://x", "/no/such/folder", "")


@pytest.fixture
def settings(registry_settings: TrainingSettings, table_bundle: Path) -> ServingSettings:
    """A registry with `flowers`, which is deployed, and models of another client."""
    settings = ServingSettings(home=registry_settings.home)
    version = Registry(settings).publish(table_bundle)
    endpoint = ModelEndpoint(name="flowers", version=1, digest=version.digest, uri=version.uri)
    DeploymentStore.open(settings).put_record(ModelDeployment(endpoint=endpoint))
    client = MlflowStore(settings).client
    for number, source in enumerate(SOURCES):
        for name in (NAMES[number], f"model-{number}"):
            client.create_registered_model(name)
            client.create_model_version(name, source=source)
    client.create_registered_model("without-a-version")
    return settings


@pytest.fixture(autouse=True)
def anyio_backend(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={}))
    return "asyncio"


async def fetch(settings: ServingSettings, *paths: str) -> list[httpx.Response]:
    api = build_api(Catalog(settings), None, settings, "http://test")  # type: ignore[arg-type]
    async with open_client(make_asgi_app(api)) as http:
        return [await http.get(path) for path in paths]


async def test_the_catalog_lists_every_model_and_says_which_cannot_be_read(settings: ServingSettings) -> None:
    listing, flowers, document = await fetch(settings, "/api/v1/models", "/api/v1/models/flowers", "/openapi.json")

    models = {model["name"]: model for model in listing.json()["models"]}
    assert models["flowers"]["task"] == "tabular-classification"
    for name in (*NAMES, "model-0", "model-5"):
        assert models[name]["task"] is None
        assert models[name]["summary"].startswith("cannot be read: ")
    assert flowers.json()["manifest"]["name"] == "flowers"
    assert "/v2/models/flowers/predict" in document.json()["paths"]


def test_every_name_can_be_looked_up_in_either_reader(settings: ServingSettings) -> None:
    for reader in (MlflowStore(settings), Registry(settings).reader):
        for name in NAMES:
            assert [version.name for version in reader.list_versions(name)] == [name]
        assert reader.list_versions("") == []


async def test_an_odd_model_is_described_by_its_own_address(settings: ServingSettings) -> None:
    for response in await fetch(settings, "/api/v1/models/o'neil", "/api/v1/models/model-3"):
        assert response.status_code == 200
        assert response.json()["manifest"] is None


async def test_a_served_version_that_is_deleted_in_the_registry_is_documented_while_its_files_are_there(
    settings: ServingSettings,
) -> None:
    Registry(settings).client.delete_model_version("flowers", "1")

    listing, document = await fetch(settings, "/api/v1/models", "/openapi.json")

    assert listing.status_code == 200
    assert "/v2/models/flowers/predict" in document.json()["paths"]


async def test_a_served_version_whose_files_are_gone_hides_no_other(settings: ServingSettings) -> None:
    uri = Registry(settings).resolve("flowers").uri
    shutil.rmtree(uri.removeprefix("file://"))

    listing, document = await fetch(settings, "/api/v1/models", "/openapi.json")

    assert listing.status_code == document.status_code == 200


def test_the_command_line_lists_every_model(
    settings: ServingSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOAL_HOME", str(settings.home))

    assert run(["models", "--json"]) == 0

    models = {model["model"]: model for model in json.loads(capsys.readouterr().out)}
    assert models["flowers"]["problem"] == ""
    assert models["o'neil"]["problem"].startswith("cannot be read: ")
