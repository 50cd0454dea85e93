"""Pipelines on a real cluster: each kind, failures with a name, deadlines, callers that leave, and coming back."""

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

from cluster.local.record import Cluster
from cluster.rollout.deploy import deploy, deploy_pipeline, undeploy
from cluster.settings import Settings
from deployments.specs import pipeline_files
from deployments.specs.model import Scale
from tests.conftest import FEATURES, Shoal, fetch_applications, save_table, serve, until
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.errors import UserError
from training.recipe.spec import TokenizerConfig
from training.registry.model_registry import Registry
from training.schema import ClassOutput, TableInput, TextInput, TextOutput

ROW = {"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}
TOKENISER = Tokenizer.fit(TokenizerConfig(kind="characters"), ["abcdefgh"])
TRIAGE = """
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

SLOW = """
name: late
timeout_s: 25
root:
  kind: branch
  cases:
    - name: hasty
      when: {kind: length, below: 3}
      then: {model: writer, options: {max_tokens: 1000, temperature: 0}, timeout_s: 1}
  default: {model: writer, options: {max_tokens: 1000, temperature: 0}}
"""


class SlowWriter(nn.Module):
    """A language model that takes its time over each token, with one core busy."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(len(TOKENISER), 512)
        self.layers = nn.Sequential(*(nn.Linear(512, 512) for _ in range(40)))
        self.last = nn.Linear(512, len(TOKENISER))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(self.token(x)))


def save_writer(folder: Path) -> None:
    torch.manual_seed(0)
    rows = torch.tensor([[4, 5, 6, 7], [5, 6, 7, 8]])
    about = ModelInfo(
        name="writer", task="text-generation", input_schema=TextInput(max_tokens=16), output_schema=TextOutput()
    )
    save_bundle(folder, SlowWriter(), inputs=rows, info=about, tokenizer=TOKENISER, example="abcd")


@pytest.fixture(scope="module")
def applied(
    http: httpx.Client, served: Cluster, settings: Settings, shoal: Shoal, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Pipelines of the served models, and one of a slow one; gone afterwards."""
    folder = tmp_path_factory.mktemp("pipelines")
    save_writer(folder / "writer")
    pipelines = {
        "triage": TRIAGE,
        "nested": "name: nested\nroot: {kind: fan-out, nodes: {triage: triage, plain: flowers}}\n",
        "late": SLOW,
    }
    serve(settings, served, folder / "writer")
    for name, content in pipelines.items():
        (folder / f"{name}.yaml").write_text(content)
        done = shoal("apply", str(folder / f"{name}.yaml"))
        assert done.returncode == 0, done.stderr
    yield folder
    for name in ("late", "nested", "triage", "writer"):
        undeploy(settings, served, name, lambda status: None)


def test_rows_go_through_real_models_and_come_back_in_order(http: httpx.Client, applied: Path) -> None:
    alone = http.post("/v2/models/flowers/predict", json={"inputs": [ROW]}).json()["predictions"][0]
    short = ROW | {"length": 1.0}

    answer = http.post("/v2/models/triage/predict", json={"inputs": [short, ROW, list(short.values())]}).json()

    assert (answer["model"], answer["version"]) == ("triage", "1")
    assert [each["branch"] for each in answer["predictions"]] == ["default", "long", "default"]
    assert answer["predictions"][1]["scores"] == pytest.approx(alone["scores"])
    first, last = answer["predictions"][0]["kind"], answer["predictions"][2]["again"]
    assert first["scores"] == pytest.approx(last["scores"])


def test_a_pipeline_is_called_like_any_model(http: httpx.Client, applied: Path) -> None:
    for path in ("/v2/models/triage", "/v2/models/triage/versions/1"):
        example = http.get(f"{path}/example").json()
        direct = http.post(f"{path}/predict", json=example)
        assert direct.status_code == 200, direct.text
        assert http.get(f"{path}/ready").json() == {"name": "triage", "ready": True}
        assert http.get(path).json()["platform"] == "shoal_pipeline"
    stable = http.post("/api/v1/models/triage/predict", json=example)
    models = {each["name"]: each for each in http.get("/api/v1/models").json()["models"]}

    assert stable.json()["predictions"][0]["scores"] == pytest.approx(direct.json()["predictions"][0]["scores"])
    assert models["triage"]["status"] == "RUNNING"
    assert models["triage"]["nodes"] == ["flowers"]
    assert http.get("/api/v1/models/nested").json()["pipeline"]["root"]["kind"] == "fan-out"
    assert http.post("/v2/models/triage/infer", json={"inputs": []}).status_code == 422


@pytest.mark.parametrize("name", ["triage", "nested"])
def test_the_openapi_page_has_its_real_schema_and_an_example_that_works(
    http: httpx.Client, applied: Path, name: str
) -> None:
    document = http.get("/openapi.json").json()
    operation = document["paths"][f"/v2/models/{name}/predict"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    jsonschema.validate(content["example"], content["schema"])

    answer = http.post(f"/v2/models/{name}/predict", json=content["example"])

    assert answer.status_code == 200
    jsonschema.validate(answer.json(), operation["responses"]["200"]["content"]["application/json"]["schema"])


def test_a_pipeline_may_be_a_node_and_an_error_names_the_path_to_it(http: httpx.Client, applied: Path) -> None:
    said = http.post("/v2/models/nested/predict", json={"inputs": [ROW], "top_k": 1}).json()["predictions"][0]
    assert said["triage"]["branch"] == "long"
    assert len(said["triage"]["scores"]) == len(said["plain"]["scores"]) == 1

    wrong = http.post("/v2/models/nested/predict", json={"inputs": [ROW, {"length": 9}]}, headers={"x-request-id": "r"})

    error = wrong.json()["error"]
    assert (wrong.status_code, error["code"], error["request_id"]) == (422, "invalid_features", "r")
    assert error["message"].startswith(("plain (flowers): row 1: missing", "triage (triage): case long, member"))
    assert "row 1: missing ['width', 'height', 'weight']" in error["message"]


def test_many_callers_at_once_get_their_own_rows(http: httpx.Client, applied: Path) -> None:
    def ask(number: int) -> Any:
        rows = [{**ROW, "length": float(number + at)} for at in range(1 + number % 4)]
        said = http.post("/v2/models/triage/predict", json={"inputs": rows}).json()["predictions"]
        return [each.get("kind", each)["scores"] for each in said]

    alone = [ask(number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, range(12)))

    for one, many in zip(alone, together, strict=True):
        for a, b in zip(one, many, strict=True):
            assert a == pytest.approx(b, abs=1e-5)


def test_a_node_that_is_late_is_canceled_and_named(http: httpx.Client, applied: Path) -> None:
    start = time.monotonic()
    answer = http.post("/v2/models/late/predict", json={"inputs": ["ab"]})
    took_s = time.monotonic() - start

    assert answer.status_code == 504, answer.text
    assert answer.json()["error"]["message"].startswith("case hasty (writer): no response within")
    assert took_s < 10


def taken_s(pid: int) -> float:
    """CPU seconds that a process has taken."""
    return float(sum(psutil.Process(pid).cpu_times()[:2]))


def idle(pid: int) -> bool:
    before = taken_s(pid)
    time.sleep(1)
    return taken_s(pid) - before < 0.05


UNWATCHED = {"x-request-disconnect-disabled": "?1"}


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/v2/models/late", {}), ("/v2/models/late", UNWATCHED), ("/api/v1/models/late", UNWATCHED)],
    ids=["Ray watches", "Ray does not", "the stable address"],
)
def test_a_caller_that_leaves_ends_the_work_in_the_nodes_replica(
    http: httpx.Client, served: Cluster, settings: Settings, applied: Path, path: str, headers: dict[str, str]
) -> None:
    application = fetch_applications(settings, served)["writer"]
    (replica,) = application["deployments"]["replica"]["replicas"]
    pid = replica["pid"]
    assert until(lambda: idle(pid), 20)  # what an earlier test gave up has ended, too
    before = taken_s(pid)
    address = (str(http.base_url.host), int(http.base_url.port or 80))
    body = json.dumps({"inputs": ["abc"]}).encode()
    lines = {
        "Host": "shoal",
        "Authorization": http.headers["authorization"],
        "Content-Length": str(len(body)),
    } | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())

    with socket.create_connection(address) as caller:
        caller.sendall(f"POST {path}/predict HTTP/1.1\r\n{head}\r\n".encode() + body)
        assert until(lambda: taken_s(pid) - before > 0.5, 20)

    # Its 1,000 tokens would take some ten times what they took so far.
    assert until(lambda: idle(pid), 5)
    assert taken_s(pid) - before < 3


def test_what_a_pipeline_needs_is_neither_taken_away_nor_broken(
    http: httpx.Client, shoal: Shoal, applied: Path, tmp_path: Path
) -> None:
    gone = shoal("undeploy", "flowers")
    inner = shoal("undeploy", "triage")
    assert gone.returncode == inner.returncode == 2
    assert "'flowers' is a node of" in gone.stderr
    assert "'triage' is a node of nested" in inner.stderr

    torch.manual_seed(0)
    about = ModelInfo(
        name="flowers",
        task="tabular-classification",
        input_schema=TableInput(features=("height", "depth")),
        output_schema=ClassOutput(labels=("a", "b", "c")),
    )
    save_bundle(tmp_path / "other", nn.Linear(2, 3), inputs=torch.rand(2, 2), info=about)
    assert shoal("models", "import", str(tmp_path / "other")).returncode == 0
    refused = shoal("deploy", "flowers:2", "--cpus", "0.5")

    assert refused.returncode == 2
    assert "pipeline triage calls flowers and would not work any more" in refused.stderr
    assert "no feature 'length'" in refused.stderr
    assert http.post("/v2/models/triage/predict", json={"inputs": [ROW]}).status_code == 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: q\nroot: {kind: ensemble, members: [flowers, pictures]}", "member 2 (pictures) takes images"),
        ("name: q\nroot: roses", "no model 'roses' is deployed"),
        ("name: flowers\nroot: pictures", "'flowers' is a model's name"),
        ("name: triage\nroot: nested", "triage would call itself: triage -> nested -> triage"),
        ("name: q\nroot: {kind: sequence, stages: []}", "root.sequence.stages: Extra inputs"),
        ("name: [", "is not YAML"),
    ],
)
def test_what_cannot_be_applied_says_why(
    served: Cluster, settings: Settings, applied: Path, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "wrong.yaml").write_text(content)

    with pytest.raises(UserError, match=re.escape(said)):
        deploy_pipeline(settings, served, pipeline_files.load_pipeline(tmp_path / "wrong.yaml"), lambda status: None)


def test_a_pipeline_that_cannot_be_applied_is_one_line_at_the_command_line(
    shoal: Shoal, applied: Path, tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_text("name: q\nroot: roses")

    done = shoal("apply", str(tmp_path / "wrong.yaml"))

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ")


def test_status_tells_pipelines_and_a_change_is_the_next_version(
    http: httpx.Client, shoal: Shoal, applied: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "from deployments.pipelines import ModelNode, Pipeline, Sequence\n"
        "pipeline = Pipeline(name='triage', root=Sequence(nodes=(ModelNode(model='flowers'),)))\n"
    )
    assert "triage" in shoal("status", env={"COLUMNS": "200"}).stdout

    done = shoal("apply", str(tmp_path / "own.py"))

    assert done.returncode == 0, done.stderr
    assert "triage:2" in done.stdout
    # The pipeline around it has followed.
    said = http.post("/v2/models/nested/predict", json={"inputs": [ROW]}).json()["predictions"][0]
    assert said["triage"]["scores"] == pytest.approx(said["plain"]["scores"])
    assert http.get("/api/v1/models/nested").json()["nodes"] == ["triage", "flowers"]


@pytest.mark.soak
def test_a_node_scales_by_itself(http: httpx.Client, served: Cluster, settings: Settings, applied: Path) -> None:
    def replicas(name: str) -> int:
        found = fetch_applications(settings, served)[name]["deployments"]["replica"]["replicas"]
        return sum(replica["state"] == "RUNNING" for replica in found)

    scale = Scale(cpus=0.5, min_replicas=1, max_replicas=2, target_ongoing_requests=1)
    deploy(settings, served, Registry(settings).resolve("writer:1"), lambda status: None, scale=scale)
    stop = time.monotonic() + 120
    # Callers that come again at once, each with more work than a second.
    with ThreadPoolExecutor(4) as pool:

        def ask() -> None:
            while time.monotonic() < stop and replicas("writer") < 2:
                http.post("/v2/models/late/predict", json={"inputs": ["abc"]}, timeout=30)

        for asked in [pool.submit(ask) for _ in range(4)]:
            asked.result()

    assert replicas("writer") == 2
    assert replicas("late") == 1
    deploy(settings, served, Registry(settings).resolve("writer:1"), lambda status: None, scale=Scale(cpus=0.5))


@pytest.mark.soak
def test_pipelines_come_back_with_their_cluster(tmp_path: Path) -> None:
    from tests.conftest import shoal_for

    shoal = shoal_for(tmp_path / "home")
    save_table(tmp_path / "table")
    (tmp_path / "p.yaml").write_text("name: p\nroot: {kind: sequence, nodes: [flowers]}\n")
    try:
        for arguments in (("up",), ("models", "import", str(tmp_path / "table")), ("deploy", "flowers")):
            assert shoal(*arguments).returncode == 0
        assert shoal("apply", str(tmp_path / "p.yaml")).returncode == 0
        assert shoal("down").returncode == 0
        assert shoal("up").returncode == 0

        answer = shoal("predict", "p", json.dumps({"inputs": [ROW]}))

        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["model"] == "p"
        assert set(FEATURES) == set(ROW)
    finally:
        shoal("down")
