"""The one OpenAPI document of a real cluster: what it says is what happens, and what it shows works as pasted."""

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

from cluster.local.record import Cluster
from cluster.rollout.deploy import deploy_pipeline, undeploy
from cluster.settings import Settings
from deployments.pipelines import FanOut, Pipeline
from tests.conftest import open_http

# positive_data_acceptance is left out: that a shape fits its data, that numbers are finite in FP32 and that a text is a
# picture is more than JSON Schema can say, so that what fits the schema may still be refused, with a 422.
LEFT_OUT = "positive_data_acceptance"
# A request's own `timeout` of a microsecond is answered by a 504, and rightly; no other 5xx is.
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]
"""


@pytest.fixture(scope="module")
def piped(served: Cluster, settings: Settings) -> Iterator[Cluster]:
    """The served models with a pipeline beside them."""
    twice = Pipeline(name="twice", root=FanOut(nodes={"once": "flowers", "again": "flowers"}))
    deploy_pipeline(settings, served, twice, lambda status: None)
    yield served
    undeploy(settings, served, "twice", lambda status: None)


def test_schemathesis_finds_nothing(piped: Cluster, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    with open_http(settings, piped) as client:
        key = client.headers["authorization"]
    # Whatever else the session has deployed has the same paths; two models of two kinds and a pipeline are enough.
    others = "^/(api/v1|v2)/models/(?!flowers|pictures|twice|[{])"

    options = ["--header", f"Authorization: {key}", "--exclude-path-regex", others, "--exclude-checks", LEFT_OUT]
    options += ["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--generation-deterministic"]
    options += ["--no-shrink", "--continue-on-failure", "--no-color"]

    done = subprocess.run(
        [Path(sys.executable).parent / "schemathesis", "run", f"{piped.url}/openapi.json", *options],
        cwd=tmp_path,
        env=os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_every_operations_own_example_works_as_pasted(http: httpx.Client, piped: Cluster) -> None:
    document = http.get("/openapi.json").json()
    tried = []

    for path, item in document["paths"].items():
        for method, operation in item.items():
            address = path
            for parameter in operation.get("parameters", ()):
                address = address.replace(f"{{{parameter['name']}}}", parameter["example"])
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if body:
                jsonschema.validate(body["example"], body["schema"])
            answer = http.request(method, address, json=body.get("example"))
            assert answer.status_code == 200, (method, address, answer.text)
            jsonschema.validate(answer.json(), _schema(operation))
            tried.append(address)

    assert {"/v2/models/flowers/infer", "/v2/models/pictures/predict", "/v2/health/ready"} <= set(tried)
    assert any(re.fullmatch(r"/v2/models/[\w-]+/versions/\d+/infer", address) for address in tried)
    assert "/v2/models/twice/predict" in tried


def test_the_page_names_each_operation_and_what_it_belongs_to(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()

    assert "swagger" in http.get("/docs").text.lower()
    assert document["info"]["title"] == "Shoal"
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["summary"]
            assert operation["description"]
            assert operation["tags"]


@pytest.mark.parametrize("form", ["as colour planes", "as rows"])
def test_a_grey_pictures_pixels_fit_the_schema_in_either_form(http: httpx.Client, form: str) -> None:
    document = http.get("/openapi.json").json()
    operation = document["paths"]["/v2/models/pictures/predict"]["post"]
    rows = [[7] * 8] * 8
    request = {"inputs": [rows if form == "as rows" else [rows]]}

    jsonschema.validate(request, operation["requestBody"]["content"]["application/json"]["schema"])
    assert http.post("/v2/models/pictures/predict", json=request).status_code == 200


def _schema(operation: dict[str, Any]) -> dict[str, Any]:
    return operation["responses"]["200"]["content"]["application/json"]["schema"]  # type: ignore[no-any-return]
