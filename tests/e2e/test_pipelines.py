"""Pipelines on a real cluster: each kind of node, named failures, timeouts, disconnects, and a restart."""

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import psutil
import pytest
import torch
from torch import Tensor, nn

from cluster.local.running_cluster import Cluster
from cluster.rollout.deploy import deploy, deploy_pipeline, undeploy
from cluster.settings import Settings
from deployments.specs import pipeline_files
from deployments.specs.model_deployment import Scale
from tests.conftest import ShoalCli, fetch_applications, publish_and_deploy, wait_until
from tests.small_bundles import FEATURES, save_table
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.errors import UserError
from training.recipe.spec import TokenizerConfig
from training.registry.model_registry import Registry
from training.schema import ClassOutput, TableInput, TextInput, TextOutput

ROW = {"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}
TOKENIZER = Tokenizer.fit(TokenizerConfig(kind="characters"), ["abcdefgh"])
TRIAGE_PIPELINE = """
name: triage
summary: Long flowers go to an ensemble.
root:
  kind: branch
  cases:
    - name: long
      when: {kind: feature, feature: length, at_least: 5}
      then: {kind: ensemble, members: [flowers, {model: flowers}], weights: [2, 1]}
  default: {kind: fan-out, nodes: {kind: flowers, again: flowers}}
"""

SLOW_PIPELINE = """
name: slow-writer
timeout_s: 25
root:
  kind: branch
  cases:
    - name: short
      when: {kind: length, below: 3}
      then: {model: writer, options: {max_tokens: 1000, temperature: 0}, timeout_s: 1}
  default: {model: writer, options: {max_tokens: 1000, temperature: 0}}
"""


class SlowWriter(nn.Module):
    """A language model that is slow and keeps one core busy for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(TOKENIZER), 512)
        self.layers = nn.Sequential(*(nn.Linear(512, 512) for _ in range(40)))
        self.head = nn.Linear(512, len(TOKENIZER))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.layers(self.embedding(x)))
        return y


def save_writer(folder: Path) -> None:
    torch.manual_seed(0)
    rows = torch.tensor([[4, 5, 6, 7], [5, 6, 7, 8]])
    info = ModelInfo(
        name="writer", task="text-generation", input_schema=TextInput(max_tokens=16), output_schema=TextOutput()
    )
    save_bundle(folder, SlowWriter(), inputs=rows, info=info, tokenizer=TOKENIZER, example="abcd")


@pytest.fixture(scope="module")
def applied_pipelines(
    http: httpx.Client,
    serving_cluster: Cluster,
    settings: Settings,
    shoal: ShoalCli,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """Apply pipelines of the served models and of a slow one, and undeploy them afterwards."""
    folder = tmp_path_factory.mktemp("pipelines")
    save_writer(folder / "writer")
    pipelines = {
        "triage": TRIAGE_PIPELINE,
        "nested": "name: nested\nroot: {kind: fan-out, nodes: {triage: triage, plain: flowers}}\n",
        "slow-writer": SLOW_PIPELINE,
    }
    publish_and_deploy(settings, serving_cluster, folder / "writer")
    for name, content in pipelines.items():
        (folder / f"{name}.yaml").write_text(content)
        result = shoal("apply", str(folder / f"{name}.yaml"))
        assert result.returncode == 0, result.stderr
    yield folder
    for name in ("slow-writer", "nested", "triage", "writer"):
        undeploy(settings, serving_cluster, name, lambda status: None)


def test_an_answer_names_what_its_nodes_were(http: httpx.Client, applied_pipelines: Path) -> None:
    flowers = http.get("/v2/models/flowers").headers["x-shoal-version"]
    for path in ("/v2/models/nested/predict", "/api/v1/models/nested/predict"):
        response = http.post(path, json={"inputs": [ROW]})

        assert response.status_code == 200, response.text
        served = {name: value for name, value in response.headers.items() if name.startswith("x-shoal-")}
        nodes = f"flowers:{flowers},triage:1"
        assert served == {"x-shoal-model": "nested", "x-shoal-version": "1", "x-shoal-nodes": nodes}


def test_predictions_of_real_models_come_back_in_row_order(http: httpx.Client, applied_pipelines: Path) -> None:
    direct = http.post("/v2/models/flowers/predict", json={"inputs": [ROW]}).json()["predictions"][0]
    short_row = ROW | {"length": 1.0}

    response = http.post(
        "/v2/models/triage/predict", json={"inputs": [short_row, ROW, list(short_row.values())]}
    ).json()

    assert (response["model"], response["version"]) == ("triage", "1")
    assert [prediction["branch"] for prediction in response["predictions"]] == ["default", "long", "default"]
    assert response["predictions"][1]["scores"] == pytest.approx(direct["scores"])
    first, last = response["predictions"][0]["kind"], response["predictions"][2]["again"]
    assert first["scores"] == pytest.approx(last["scores"])


def test_a_pipeline_is_called_like_any_model(http: httpx.Client, applied_pipelines: Path) -> None:
    for path in ("/v2/models/triage", "/v2/models/triage/versions/1"):
        example = http.get(f"{path}/example").json()
        direct = http.post(f"{path}/predict", json=example)
        assert direct.status_code == 200, direct.text
        assert http.get(f"{path}/ready").json() == {"name": "triage", "ready": True}
        assert http.get(path).json()["platform"] == "shoal_pipeline"
    stable = http.post("/api/v1/models/triage/predict", json=example)
    models = {model["name"]: model for model in http.get("/api/v1/models").json()["models"]}

    assert stable.json()["predictions"][0]["scores"] == pytest.approx(direct.json()["predictions"][0]["scores"])
    assert models["triage"]["status"] == "RUNNING"
    assert models["triage"]["nodes"] == ["flowers"]
    assert http.get("/api/v1/models/nested").json()["pipeline"]["root"]["kind"] == "fan-out"
    assert http.post("/v2/models/triage/infer", json={"inputs": []}).status_code == 422


@pytest.mark.parametrize("name", ["triage", "nested"])
def test_the_openapi_page_has_its_real_schema_and_an_example_that_works(
    http: httpx.Client, applied_pipelines: Path, name: str
) -> None:
    document = http.get("/openapi.json").json()
    operation = document["paths"][f"/v2/models/{name}/predict"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    jsonschema.validate(content["example"], content["schema"])

    response = http.post(f"/v2/models/{name}/predict", json=content["example"])

    assert response.status_code == 200
    jsonschema.validate(response.json(), operation["responses"]["200"]["content"]["application/json"]["schema"])


def test_a_pipeline_may_be_a_node_and_an_error_names_the_path_to_it(
    http: httpx.Client, applied_pipelines: Path
) -> None:
    prediction = http.post("/v2/models/nested/predict", json={"inputs": [ROW], "top_k": 1}).json()["predictions"][0]
    assert prediction["triage"]["branch"] == "long"
    assert len(prediction["triage"]["scores"]) == len(prediction["plain"]["scores"]) == 1

    response = http.post(
        "/v2/models/nested/predict", json={"inputs": [ROW, {"length": 9}]}, headers={"x-request-id": "r"}
    )

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["request_id"]) == (422, "invalid_features", "r")
    assert error["message"].startswith(("plain (flowers): row 1: missing", "triage (triage): case long, member"))
    assert "row 1: missing: 'width', 'height', 'weight'" in error["message"]


def test_many_callers_at_once_get_their_own_rows(http: httpx.Client, applied_pipelines: Path) -> None:
    def predict(number: int) -> Any:
        rows = [{**ROW, "length": float(number + i)} for i in range(1 + number % 4)]
        predictions = http.post("/v2/models/triage/predict", json={"inputs": rows}).json()["predictions"]
        return [prediction.get("kind", prediction)["scores"] for prediction in predictions]

    sequential = [predict(number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        concurrent = list(pool.map(predict, range(12)))

    for expected_rows, rows in zip(sequential, concurrent, strict=True):
        for expected, scores in zip(expected_rows, rows, strict=True):
            assert expected == pytest.approx(scores, abs=1e-5)


def test_a_node_that_times_out_is_canceled_and_named(http: httpx.Client, applied_pipelines: Path) -> None:
    start = time.monotonic()
    response = http.post("/v2/models/slow-writer/predict", json={"inputs": ["ab"]})
    elapsed_s = time.monotonic() - start

    assert response.status_code == 504, response.text
    assert response.json()["error"]["message"].startswith("case short (writer): no response within")
    assert elapsed_s < 10


def get_cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far."""
    return float(sum(psutil.Process(pid).cpu_times()[:2]))


def is_idle(pid: int) -> bool:
    before = get_cpu_s(pid)
    time.sleep(1)
    return get_cpu_s(pid) - before < 0.05


NO_DISCONNECT_WATCH = {"x-request-disconnect-disabled": "?1"}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v2/models/slow-writer", {}),
        ("/v2/models/slow-writer", NO_DISCONNECT_WATCH),
        ("/api/v1/models/slow-writer", NO_DISCONNECT_WATCH),
    ],
    ids=["Ray watches", "Ray does not", "the stable address"],
)
def test_a_disconnect_cancels_the_work_in_the_nodes_replica(
    http: httpx.Client,
    serving_cluster: Cluster,
    settings: Settings,
    applied_pipelines: Path,
    path: str,
    headers: dict[str, str],
) -> None:
    application = fetch_applications(settings, serving_cluster)["writer"]
    (replica,) = application["deployments"]["replica"]["replicas"]
    pid = replica["pid"]
    assert wait_until(lambda: is_idle(pid), 20)  # the work that an earlier test canceled has ended
    before = get_cpu_s(pid)
    address = (str(http.base_url.host), int(http.base_url.port or 80))
    body = json.dumps({"inputs": ["abc"]}).encode()
    request_headers = {
        "Host": "shoal",
        "Authorization": http.headers["authorization"],
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    } | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in request_headers.items())

    with socket.create_connection(address) as caller:
        caller.sendall(f"POST {path}/predict HTTP/1.1\r\n{head}\r\n".encode() + body)
        assert wait_until(lambda: get_cpu_s(pid) - before > 0.5, 20)

    # All of its 1,000 tokens would take about ten times as long.
    assert wait_until(lambda: is_idle(pid), 5)
    assert get_cpu_s(pid) - before < 3


def test_a_model_that_a_pipeline_calls_is_neither_undeployed_nor_replaced_by_an_incompatible_version(
    http: httpx.Client, shoal: ShoalCli, applied_pipelines: Path, tmp_path: Path
) -> None:
    model_result = shoal("undeploy", "flowers")
    pipeline_result = shoal("undeploy", "triage")
    assert model_result.returncode == pipeline_result.returncode == 2
    assert "'flowers' is a node of" in model_result.stderr
    assert "'triage' is a node of nested" in pipeline_result.stderr

    torch.manual_seed(0)
    info = ModelInfo(
        name="flowers",
        task="tabular-classification",
        input_schema=TableInput(features=("height", "depth")),
        output_schema=ClassOutput(labels=("a", "b", "c")),
    )
    save_bundle(tmp_path / "other", nn.Linear(2, 3), inputs=torch.rand(2, 2), info=info)
    assert shoal("models", "import", str(tmp_path / "other")).returncode == 0
    result = shoal("deploy", "flowers:2", "--cpus", "0.5")

    assert result.returncode == 2
    assert "pipeline triage calls flowers and would not work any more" in result.stderr
    assert "no feature 'length'" in result.stderr
    assert http.post("/v2/models/triage/predict", json={"inputs": [ROW]}).status_code == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: q\nroot: {kind: ensemble, members: [flowers, images]}", "member 2 (images) takes images"),
        ("name: q\nroot: roses", "no model 'roses' is deployed"),
        ("name: flowers\nroot: images", "'flowers' is a model's name"),
        ("name: triage\nroot: nested", "triage would call itself: triage -> nested -> triage"),
        (
            "name: q\nroot: {kind: sequence, stages: []}",
            "root.stages: no such key; valid keys: input_from, kind, nodes",
        ),
        ("name: [", "is not YAML"),
    ],
)
def test_an_invalid_pipeline_is_refused_with_the_reason(
    serving_cluster: Cluster, settings: Settings, applied_pipelines: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "invalid.yaml").write_text(content)

    with pytest.raises(UserError, match=re.escape(message)):
        deploy_pipeline(
            settings, serving_cluster, pipeline_files.load_pipeline(tmp_path / "invalid.yaml"), lambda status: None
        )


def test_an_invalid_pipeline_is_a_one_line_error_at_the_command_line(
    shoal: ShoalCli, applied_pipelines: Path, tmp_path: Path
) -> None:
    (tmp_path / "invalid.yaml").write_text("name: q\nroot: roses")

    result = shoal("apply", str(tmp_path / "invalid.yaml"))

    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("error: ")


def test_status_lists_pipelines_and_a_change_is_the_next_version(
    http: httpx.Client, shoal: ShoalCli, applied_pipelines: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "from deployments.pipelines import ModelNode, Pipeline, Sequence\n"
        "pipeline = Pipeline(name='triage', root=Sequence(nodes=(ModelNode(model='flowers'),)))\n"
    )
    assert "triage" in shoal("status", env={"COLUMNS": "200"}).stdout

    result = shoal("apply", str(tmp_path / "own.py"))

    assert result.returncode == 0, result.stderr
    assert "triage:2" in result.stdout
    # The pipeline that calls it uses the new version.
    prediction = http.post("/v2/models/nested/predict", json={"inputs": [ROW]}).json()["predictions"][0]
    assert prediction["triage"]["scores"] == pytest.approx(prediction["plain"]["scores"])
    assert http.get("/api/v1/models/nested").json()["nodes"] == ["triage", "flowers"]


@pytest.mark.soak
def test_a_node_scales_independently(
    http: httpx.Client, serving_cluster: Cluster, settings: Settings, applied_pipelines: Path
) -> None:
    def count_replicas(name: str) -> int:
        replicas = fetch_applications(settings, serving_cluster)[name]["deployments"]["replica"]["replicas"]
        return sum(replica["state"] == "RUNNING" for replica in replicas)

    scale = Scale(cpus=0.5, min_replicas=1, max_replicas=2, target_ongoing_requests=1)
    deploy(settings, serving_cluster, Registry(settings).resolve("writer:1"), lambda status: None, scale=scale)
    deadline = time.monotonic() + 120
    # Each caller sends requests in a loop, each of which takes more than a second.
    with ThreadPoolExecutor(4) as pool:

        def send_requests() -> None:
            while time.monotonic() < deadline and count_replicas("writer") < 2:
                http.post("/v2/models/slow-writer/predict", json={"inputs": ["abc"]}, timeout=30)

        for future in [pool.submit(send_requests) for _ in range(4)]:
            future.result()

    assert count_replicas("writer") == 2
    assert count_replicas("slow-writer") == 1
    deploy(
        settings, serving_cluster, Registry(settings).resolve("writer:1"), lambda status: None, scale=Scale(cpus=0.5)
    )


@pytest.mark.soak
def test_pipelines_are_restored_when_their_cluster_restarts(tmp_path: Path) -> None:
    from tests.conftest import make_shoal_cli

    shoal = make_shoal_cli(tmp_path / "home")
    save_table(tmp_path / "table")
    (tmp_path / "p.yaml").write_text("name: p\nroot: {kind: sequence, nodes: [flowers]}\n")
    try:
        for arguments in (("up",), ("models", "import", str(tmp_path / "table")), ("deploy", "flowers")):
            assert shoal(*arguments).returncode == 0
        assert shoal("apply", str(tmp_path / "p.yaml")).returncode == 0
        assert shoal("down").returncode == 0
        assert shoal("up").returncode == 0

        response = shoal("predict", "p", json.dumps({"inputs": [ROW]}))

        assert response.returncode == 0, response.stderr
        assert json.loads(response.stdout)["model"] == "p"
        assert set(FEATURES) == set(ROW)
    finally:
        shoal("down")
