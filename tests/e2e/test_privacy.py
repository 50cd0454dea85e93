"""Privacy of callers: what they send is computed and answered, and left nowhere.

Canaries go in by every door, in requests that succeed and that fail; then all that a cluster writes is searched.
"""

import base64
import json
import secrets as random_secrets
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cluster.local import secrets
from cluster.local.running_cluster import Cluster, require_cluster
from cluster.rollout.deploy import deploy_pipeline
from cluster.settings import Settings
from deployments.pipelines import ModelNode, Pipeline, Sequence
from deployments.protocols.grpc import messages
from deployments.settings import Limits
from tests.conftest import ShoalCli, make_shoal_cli, open_http, publish_and_deploy
from tests.deployments.observability.otlp_receiver import OtlpReceiver, run_receiver
from tests.e2e import canaries
from tests.e2e.canaries import find_canaries, hide_in_image, send_and_leave
from tests.e2e.test_requests import PIXELS, encode_image
from tests.small_bundles import TWO_FEATURES, save_image, save_table, save_text_generator
from training.bundle.save import save_bundle

JSON, KINDS = {"Content-Type": "application/json"}, ("/v2/models/{}/predict", "/api/v1/models/{}/predict")


@dataclass
class Caller:
    """Sends canaries, and remembers them and what was answered."""

    http: httpx.Client
    planted: list[bytes] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)

    def make(self) -> str:
        """A text that is nowhere else."""
        self.planted.append(f"canary-{random_secrets.token_hex(8)}".encode())
        return self.planted[-1].decode()

    def make_row(self) -> list[float]:
        """Four numbers that are nowhere else, as text or as float32."""
        row = [float(np.float32(random_secrets.randbelow(10**7) / 8 + 10**5)) for _ in range(4)]
        self.planted += [struct.pack("<4f", *row), json.dumps(row)[1:-1].encode(), str(row)[1:-1].encode()]
        return row

    def post(self, name: str, path: str, content: bytes | dict[str, Any] | str, **headers: str) -> httpx.Response:
        body = json.dumps(content) if isinstance(content, dict) else content
        response = self.http.post(path, content=body, headers=JSON | headers)
        self.statuses[name] = response.status_code
        return response


def send_numbers(caller: Caller, model: str) -> None:
    """Rows of a table: valid ones, and what each layer refuses."""
    infer = f"/v2/models/{model}/infer"
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32"}
    caller.post("infer", infer, {"id": caller.make(), "inputs": [tensor | {"data": caller.make_row()}]})
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 16}}]}).encode()
    body = header + struct.pack("<4f", *caller.make_row())
    caller.post("binary", infer, body, **{"Inference-Header-Content-Length": str(len(header))})  # type: ignore[arg-type]
    caller.post("tensor", infer, {"inputs": [tensor | {"name": caller.make(), "data": caller.make_row()}]})
    caller.post("no number", infer, {"inputs": [tensor | {"data": [caller.make()] * 4}]})
    for kind in KINDS:
        path = kind.format(model)
        caller.post(f"predict {path}", path, {"inputs": [caller.make_row()]})
        caller.post(f"text {path}", path, {"inputs": [[1, 2, 3, caller.make()]]})
        caller.post(f"feature {path}", path, {"inputs": [{caller.make(): caller.make()}]})
        caller.post(f"parameter {path}", path, {"inputs": [caller.make_row()], caller.make(): caller.make()})
        caller.post(f"malformed {path}", path, f'{{"inputs": [["{caller.make()}')
        caller.post(f"type {path}", path, caller.make(), **{"Content-Type": f"text/{caller.make()}"})
        caller.post(f"encoding {path}", path, caller.make(), **{"Content-Encoding": caller.make()})
        caller.post(
            f"query {path}", f"{path}?key={caller.make()}", {"inputs": [caller.make_row()]}, Cookie=caller.make()
        )
        caller.post(f"headers {path}", path, {"inputs": [caller.make_row()]}, **{"X-Extra": caller.make()})
        caller.post(f"deadline {path}", path, caller.make(), **{"X-Request-Timeout-Seconds": caller.make()})
        late = {"X-Request-Timeout-Seconds": "0.000001"}
        caller.post(f"late {path}", path, {"inputs": [caller.make_row()]}, **late)
        caller.post(f"large {path}", path, caller.make().encode() * 1_500_000)
        caller.post(f"key {path}", path, caller.make(), Authorization=f"Bearer {caller.make()}")
    caller.post("no such model", "/v2/models/nothing/infer", caller.make())
    caller.http.request("DELETE", infer, content=caller.make())


def send_images(caller: Caller, model: str) -> None:
    """Pictures: with a comment, damaged, and in base64."""
    for kind in KINDS:
        path, png = kind.format(model), encode_image(PIXELS)
        image = {"Content-Type": "image/png"}
        caller.post(f"image {path}", path, hide_in_image(png, caller.make().encode()), **image)
        caller.post(f"damaged {path}", path, png[:60] + caller.make().encode() * 4, **image)
        caller.post(f"base64 {path}", path, {"inputs": [caller.make() * 2]})


def send_texts(caller: Caller, model: str) -> None:
    """Prompts, answered at once and streamed."""
    for kind in KINDS:
        path = kind.format(model)
        caller.post(f"generate {path}", path, {"inputs": [caller.make()], "max_tokens": 3})
        caller.post(f"stream {path}", path, {"inputs": [caller.make()], "max_tokens": 3, "stream": True})
        caller.post(f"option {path}", path, {"inputs": [caller.make()], "max_tokens": caller.make()})


def send_grpc(caller: Caller, cluster: Cluster, model: str, key: str) -> list[str]:
    """Tensors over gRPC, unary and as a stream; returns the names of the statuses."""
    statuses = []
    metadata = (("authorization", f"Bearer {key}"), ("x-extra", caller.make()))
    with grpc.insecure_channel(cluster.grpc_address) as channel:
        unary = channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelInfer")
        stream = channel.stream_stream(f"/{messages.SERVICE_NAME}/ModelStreamInfer")
        for name in ("input", caller.make()):
            request = messages.ModelInferRequest(model_name=model, id=caller.make())
            tensor = request.inputs.add(name=name, datatype="FP32", shape=[1, 4])
            request.raw_input_contents.append(struct.pack("<4f", *caller.make_row()))
            assert tensor.name == name
            body = request.SerializeToString()
            try:
                unary(body, metadata=metadata, timeout=30)
                statuses.append("OK")
            except grpc.RpcError as error:
                statuses.append(error.code().name)
            assert len(list(stream(iter([body]), metadata=metadata, timeout=30))) == 1
        for body in (caller.make().encode(),):
            with pytest.raises(grpc.RpcError) as malformed:
                unary(body, metadata=metadata, timeout=30)
            statuses.append(malformed.value.code().name)
    return statuses


def leave_early(caller: Caller, cluster: Cluster, model: str, key: str) -> None:
    """Close connections within a body, and right after it."""
    for length in (100, 1000):
        body = caller.make() * 3
        head = f"POST /v2/models/{model}/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        send_and_leave((cluster.client_host, cluster.http_port), (head + body).encode())


def assert_left_nowhere(
    caller: Caller, settings: Settings, cluster: Cluster, shoal: ShoalCli, key: str, *names: str
) -> None:
    files = list(canaries.read_files(settings))
    assert any(place.endswith(".err") for place, _ in files)
    # What may be there is found, also in the middle of a database.
    assert any("registry.db" in place for place in find_canaries(files, [b"Classifies three species."]))
    contents = [*files, *canaries.read_metrics(settings, key, cluster), *canaries.read_logs(shoal, *names)]
    assert find_canaries(contents, caller.planted) == []


@pytest.mark.parametrize("form", ["text", "hexadecimal", "base64", "base64 within", "repr"])
def test_the_search_finds_each_form(form: str) -> None:
    canary = b"canary-\x00-0123456789"
    contents = {
        "text": canary,
        "hexadecimal": canary.hex().encode(),
        "base64": base64.b64encode(canary),
        "base64 within": base64.b64encode(b'{"a":"' + b"x" + canary + b'"}'),
        "repr": repr(canary).encode(),
    }

    assert find_canaries([("here", b"..." + contents[form] + b"...")], [canary]) == [f"{canary!r} in here"]
    assert find_canaries([("here", b"canary")], [canary]) == []


def test_what_callers_send_is_left_nowhere(
    serving_cluster: Cluster, settings: Settings, shoal: ShoalCli, http: httpx.Client
) -> None:
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    caller = Caller(http)

    send_numbers(caller, "flowers")
    send_images(caller, "images")
    statuses = send_grpc(caller, serving_cluster, "flowers", key)
    leave_early(caller, serving_cluster, "flowers", key)

    assert {200, 400, 401, 404, 413, 415, 422, 504} <= set(caller.statuses.values()), caller.statuses
    assert statuses == ["OK", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]
    assert len(caller.planted) > 60
    assert_left_nowhere(caller, settings, serving_cluster, shoal, key, "flowers", "images", "control", "edge")


class LookUp(nn.Module):
    """Fails for an index that its table does not have, with the index in torch's message."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 2))

    def forward(self, x_BC: Tensor) -> Tensor:
        y_BC: Tensor = self.table[x_BC[:, 0].long()]
        return y_BC


@dataclass
class WatchedCluster:
    """A cluster of its own that traces every request, logs each, and writes JSON."""

    settings: Settings
    cluster: Cluster
    shoal: ShoalCli
    receiver: OtlpReceiver


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[WatchedCluster]:
    home = tmp_path / "home"
    with run_receiver() as receiver:
        environment = {
            "SHOAL_TRACING__ENDPOINT": receiver.endpoint,
            "SHOAL_TRACING__SAMPLE_RATIO": "1",
            "SHOAL_TRACING__MAX_TRACES_PER_S": "10000",
            "SHOAL_EDGE__ACCESS_LOG": "true",
            "SHOAL_LOG_FORMAT": "json",
        }
        run = make_shoal_cli(home)
        settings = Settings(home=home, http_port=0, grpc_port=0, dashboard_port=0, log_format="json")
        try:
            result = run("up", env=environment)
            assert result.returncode == 0, result.stderr
            yield WatchedCluster(settings, require_cluster(settings), run, receiver)
        finally:
            run("down")


@pytest.mark.soak
def test_what_callers_send_is_in_no_trace_and_no_access_log_either(watched: WatchedCluster, tmp_path: Path) -> None:
    settings, cluster, receiver = watched.settings, watched.cluster, watched.receiver
    save_table(tmp_path / "flowers")
    save_image(tmp_path / "images")
    save_text_generator(tmp_path / "writer", "writer")
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    info = TWO_FEATURES.model_copy(update={"name": "table"})
    save_bundle(tmp_path / "table", LookUp(), inputs=rows, info=info)
    for name in ("flowers", "images", "writer", "table"):
        publish_and_deploy(settings, cluster, tmp_path / name)
    save_table(tmp_path / "narrow", "narrow")
    narrow = settings.model_copy(update={"limits": Limits(max_queue=1)})
    publish_and_deploy(narrow, cluster, tmp_path / "narrow")
    pipeline = Pipeline(name="twice", root=Sequence(nodes=(ModelNode(model="flowers"),)))
    deploy_pipeline(settings, cluster, pipeline, lambda status: None)
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)

    with open_http(settings, cluster) as http:
        caller = Caller(http)
        send_numbers(caller, "flowers")
        send_images(caller, "images")
        send_texts(caller, "writer")
        send_grpc(caller, cluster, "flowers", key)
        leave_early(caller, cluster, "writer", key)
        for kind in KINDS:
            path = kind.format("twice")
            caller.post(f"pipeline {path}", path, {"inputs": [caller.make_row()]})
            caller.post(f"failing node {path}", path, {"inputs": [[1, 2, 3, caller.make()]]})
        index = 7_654_321
        failed = caller.post("failing net", "/v2/models/table/predict", {"inputs": [{"a": index, "b": index}]})
        overload(caller, key, "narrow")
        caller.post(
            "marked", "/v2/models/flowers/predict", {"inputs": [caller.make_row()]}, **{"X-Request-Id": "marked"}
        )

    assert failed.status_code == 422
    assert str(index) in failed.text
    assert 429 in caller.statuses.values()
    assert_left_nowhere(
        caller, settings, cluster, watched.shoal, key, "flowers", "images", "writer", "twice", "control", "edge"
    )
    logs = b"".join(content for place, content in canaries.read_files(settings) if "/logs/" in place)
    assert str(index).encode() not in logs
    # What may be there is, so that this has looked in the right places.
    assert b'"request_id":"marked"' in b"".join(content for _, content in canaries.read_files(settings))
    spans = [str(span).encode() for span in receiver.spans] + [str(each).encode() for each in receiver.resources]
    assert len(receiver.spans) > 100
    assert any(b"marked" in span for span in spans)
    assert find_canaries([("a span", span) for span in spans], caller.planted) == []


def overload(caller: Caller, key: str, model: str) -> None:
    """Send more than a replica may have, until one is refused."""
    path = f"/v2/models/{model}/predict"
    with ThreadPoolExecutor(16) as pool:
        for turn in range(20):
            bodies = [{"inputs": [caller.make_row()] * 1000} for _ in range(16)]
            for number, body in enumerate(bodies):
                pool.submit(caller.post, f"overload {turn} {number}", path, body)
            if 429 in caller.statuses.values():
                return
