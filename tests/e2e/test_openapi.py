"""The OpenAPI document of a real cluster: requests and responses match its schemas, and its examples work."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from cluster.local.running_cluster import Cluster
from cluster.rollout.deploy import deploy_pipeline, undeploy
from cluster.settings import Settings
from deployments.pipelines import FanOut, Pipeline
from tests.conftest import open_http

# JSON Schema cannot express that a shape matches its data, that numbers are finite in FP32 or that a text is an image,
# so a request that matches the schema may still be refused with a 422.
EXCLUDED_CHECKS = "positive_data_acceptance"
# The response to a request with a `timeout` of a microsecond is a 504; no other 5xx is expected.
MANAGEMENT = "^/api/v1/(keys|tenants|deployments/)"
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]
"""


@pytest.fixture(scope="module")
def pipeline_cluster(serving_cluster: Cluster, settings: Settings) -> Iterator[Cluster]:
    """The cluster with two models and a pipeline."""
    twice = Pipeline(name="twice", root=FanOut(nodes={"once": "flowers", "again": "flowers"}))
    deploy_pipeline(settings, serving_cluster, twice, lambda status: None)
    yield serving_cluster
    undeploy(settings, serving_cluster, "twice", lambda status: None)


def test_schemathesis_finds_no_failure(pipeline_cluster: Cluster, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    with open_http(settings, pipeline_cluster) as client:
        key = client.headers["authorization"]
    # Other deployments of the session have the same paths; two models with different inputs and a pipeline suffice.
    # Keys, tenants and rollouts would change for other tests too; tests/deployments/control has those paths.
    excluded_paths = f"^/(api/v1|v2)/models/(?!flowers|images|twice|[{{])|{MANAGEMENT}"

    options = [
        "--header",
        f"Authorization: {key}",
        "--exclude-path-regex",
        excluded_paths,
        "--exclude-checks",
        EXCLUDED_CHECKS,
    ]
    options += ["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--generation-deterministic"]
    options += ["--no-shrink", "--continue-on-failure", "--no-color"]

    result = subprocess.run(
        [Path(sys.executable).parent / "schemathesis", "run", f"{pipeline_cluster.url}/openapi.json", *options],
        cwd=tmp_path,
        env=os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
    )

    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]


def test_the_example_of_every_operation_works(http: httpx.Client, pipeline_cluster: Cluster) -> None:
    document = http.get("/openapi.json").json()
    tested = []

    for path, item in document["paths"].items():
        if re.match(MANAGEMENT, path):
            continue
        for method, operation in item.items():
            url = path
            for parameter in (each for each in operation.get("parameters", ()) if "example" in each):
                url = url.replace(f"{{{parameter['name']}}}", parameter["example"])
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if body:
                jsonschema.validate(body["example"], body["schema"])
            response = http.request(method, url, json=body.get("example"))
            assert response.status_code == 200, (method, url, response.text)
            # References are to the document.
            schema = _get_response_schema(operation) | {"components": document["components"]}
            jsonschema.validate(response.json(), schema)
            tested.append(url)

    assert {"/v2/models/flowers/infer", "/v2/models/images/predict", "/v2/health/ready"} <= set(tested)
    assert any(re.fullmatch(r"/v2/models/[\w-]+/versions/\d+/infer", url) for url in tested)
    assert "/v2/models/twice/predict" in tested


def test_every_operation_has_a_summary_a_description_and_a_tag(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()

    assert "swagger" in http.get("/docs").text.lower()
    assert document["info"]["title"] == "Shoal"
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["summary"]
            assert operation["description"]
            assert operation["tags"]


@pytest.mark.parametrize("layout", ["CHW", "HW"])
def test_the_pixels_of_a_grayscale_image_match_the_schema_with_and_without_a_channel_axis(
    http: httpx.Client, layout: str
) -> None:
    document = http.get("/openapi.json").json()
    operation = document["paths"]["/v2/models/images/predict"]["post"]
    pixels_HW = [[7] * 8] * 8
    request = {"inputs": [pixels_HW if layout == "HW" else [pixels_HW]]}

    jsonschema.validate(request, operation["requestBody"]["content"]["application/json"]["schema"])
    assert http.post("/v2/models/images/predict", json=request).status_code == 200


def _get_response_schema(operation: dict[str, Any]) -> dict[str, Any]:
    return operation["responses"]["200"]["content"]["application/json"]["schema"]  # type: ignore[no-any-return]
