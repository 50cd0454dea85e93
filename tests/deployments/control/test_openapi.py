"""The OpenAPI document: it begins with how to call a model, has each model once, and its examples are valid."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cluster.local.secrets import ADMIN_KEY
from deployments.access.api_keys import ADMIN_KEY_FILE
from deployments.control.app import build_api
from deployments.control.catalog import Catalog
from deployments.settings import ServingSettings
from deployments.state.store import DeploymentStore
from tests.deployments.control.conftest import LocalClient

URL = "http://127.0.0.1:8000"


@pytest.fixture
def document(catalog: Catalog, local_client: LocalClient, serving_settings: ServingSettings) -> dict[str, Any]:
    return build_api(catalog, local_client, serving_settings, URL).openapi()  # type: ignore[arg-type]


def list_operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_each_model_and_pipeline_is_listed_once_at_its_own_address(document: dict[str, Any]) -> None:
    for name in ("flowers", "images"):
        base = f"/v2/models/{name}"
        paths = [path for path in document["paths"] if name in path]
        assert paths == [f"{base}/predict", f"{base}/infer", f"{base}/example", f"{base}/ready", base]
    paths = [path for path in document["paths"] if "twice" in path]
    assert paths == [f"/v2/models/twice{end}" for end in ("/predict", "/example", "/ready", "")]


def test_the_addresses_of_versions_are_described_once_for_all_models(document: dict[str, Any]) -> None:
    versioned = {path: item for path, item in document["paths"].items() if "/versions/" in path}

    base = "/v2/models/{name}/versions/{version}"
    assert set(versioned) == {f"{base}{end}" for end in ("/predict", "/infer", "/example", "/ready", "")}
    for item in versioned.values():
        for operation in item.values():
            own = [each for each in operation["parameters"] if "name" in each]
            assert {each["name"]: each["example"] for each in own} == {"name": "flowers", "version": "1"}
    descriptions = {tag["name"]: tag["description"] for tag in document["tags"]}
    assert "`/v2/models/flowers/versions/1`" in descriptions["model: flowers"]
    assert "`/api/v1/models/flowers/predict`" in descriptions["model: flowers"]


def test_the_page_begins_with_how_to_call_a_model(document: dict[str, Any], serving_settings: ServingSettings) -> None:
    description = document["info"]["description"]

    assert description.startswith("Every request carries a key in the header `Authorization: Bearer KEY`")
    assert str(serving_settings.home / "secrets" / ADMIN_KEY) in description
    assert Path("secrets", ADMIN_KEY) == ADMIN_KEY_FILE
    (command,) = re.findall(r"```sh\n.*?\n(curl .*?)\n```", description, re.DOTALL)
    words = shlex.split(command)
    # The shortest example that there is.
    assert words[-1] == f"{URL}/v2/models/flowers/predict"
    body = json.loads(words[words.index("-d") + 1])
    schema = document["paths"]["/v2/models/flowers/predict"]["post"]["requestBody"]["content"]["application/json"]
    jsonschema.validate(body, schema["schema"])


def test_without_deployed_models_the_page_still_says_how_to_call_one(
    catalog: Catalog, local_client: LocalClient, serving_settings: ServingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeploymentStore, "list_records", lambda self: [])

    document = build_api(catalog, local_client, serving_settings, URL).openapi()  # type: ignore[arg-type]

    assert f"{URL}/v2/models/NAME/predict" in document["info"]["description"]


def test_every_operation_is_described_under_a_described_tag(document: dict[str, Any]) -> None:
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    ids = [operation["operationId"] for _, _, operation in list_operations(document)]

    assert len(set(ids)) == len(ids)
    for path, _, operation in list_operations(document):
        assert operation["summary"], path
        assert operation["description"], path
        assert set(operation["tags"]) <= described, path


def test_every_link_leads_to_an_operation(document: dict[str, Any]) -> None:
    targets = {
        f"#/{tag.replace(' ', '%20')}/{operation['operationId']}"
        for _, _, operation in list_operations(document)
        for tag in operation["tags"]
    }
    links = set(re.findall(r"\]\((#/[^)]*)\)", json.dumps(document)))

    assert {"#/model:%20flowers/flowers-predict", "#/model:%20flowers/flowers-infer"} <= links <= targets


def test_every_request_body_has_an_example_that_its_schema_accepts(document: dict[str, Any]) -> None:
    bodies = [
        operation["requestBody"]["content"]["application/json"]
        for _, _, operation in list_operations(document)
        if "requestBody" in operation
    ]

    schemas = document["components"]["schemas"]
    # Of two models, a pipeline, any model's versions and the stable address, of keys and tenants.
    assert len(bodies) == 2 * 2 + 1 + 3 + 3 + 1
    for body in bodies:
        schema = body["schema"]
        if reference := schema.get("$ref"):
            schema = schemas[reference.rpartition("/")[2]]
        jsonschema.validate(body.get("example", schema.get("example")), schema)


def computes(path: str) -> bool:
    return path.endswith(("/predict", "/infer"))


def test_each_request_that_computes_something_may_have_a_deadline_a_priority_and_an_id(
    document: dict[str, Any],
) -> None:
    parameters = document["components"]["parameters"]
    for path, _, operation in list_operations(document):
        references = [each["$ref"] for each in operation.get("parameters", ()) if "$ref" in each]
        names = [parameters[each.rpartition("/")[2]]["name"] for each in references]
        expected = ["x-request-timeout-seconds", "x-request-priority", "x-request-id"] if computes(path) else []
        assert names == expected, path


def test_only_health_checks_are_public(document: dict[str, Any]) -> None:
    public = {path for path, _, operation in list_operations(document) if operation.get("security") == []}

    assert public == {"/v2/health/live", "/v2/health/ready", "/v2/health/started"}
    assert document["security"] == [{"key": []}]
