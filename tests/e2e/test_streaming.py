"""Generated text streamed as server-sent events, through HAProxy to the replica and over the stable address."""

import json
import time
from typing import Any

import httpx
import psutil
import pytest
import torch
from httpx_sse import EventSource
from torch import Tensor, nn

from cluster.local import processes
from cluster.local.running_cluster import Cluster, cluster_id, temp_dir
from cluster.settings import Settings
from deployments import errors
from deployments.client import Client
from tests.conftest import ShoalCli, open_http, publish_and_deploy
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import TextInput, TextOutput

TEXTS = ["这本书很好，不好看", "naïve 😀 good book .", "She gave him a book ."] * 2
TOKENIZER = Tokenizer.fit(TokenizerConfig(kind="bpe", vocab_size=300), TEXTS)
DIRECT, STABLE = "/v2/models/writer/predict", "/api/v1/models/writer/predict"
REQUEST = {"inputs": ["这本书", "good"], "max_tokens": 30, "seed": 5, "temperature": 1.0}


class SlowWriter(nn.Module):
    """A language model that takes some hundredths of a second for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(TOKENIZER), 512)
        self.layer = nn.Linear(512, 512)
        self.head = nn.Linear(512, len(TOKENIZER))

    def forward(self, x_BT: Tensor) -> Tensor:
        h_BTC = self.embedding(x_BT)
        for _ in range(40):
            h_BTC = torch.tanh(self.layer(h_BTC))
        y_BTV: Tensor = self.head(h_BTC)
        return y_BTV


@pytest.fixture(scope="module")
def replica(cluster: Cluster, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> psutil.Process:
    """The replica process of a slow language model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("writer") / "bundle"
    info = ModelInfo(
        name="writer", task="text-generation", input_schema=TextInput(max_tokens=16), output_schema=TextOutput()
    )
    rows = torch.randint(4, len(TOKENIZER), (2, 8))
    save_bundle(folder, SlowWriter(), inputs=rows, info=info, tokenizer=TOKENIZER, example="good")
    publish_and_deploy(settings, cluster, folder)
    owned = processes.find_owned(cluster_id(settings.home), temp_dir(settings.home))
    (process,) = [process for process in owned if "ServeReplica:writer" in " ".join(process.cmdline()[:1])]
    return process


def get_cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def join_chunks(events: list[Any], num_rows: int) -> list[str]:
    texts = [""] * num_rows
    for event in events:
        chunk = event.json()
        texts[chunk["row"]] += chunk["text"]
    return texts


@pytest.mark.parametrize("path", [DIRECT, STABLE])
@pytest.mark.parametrize("requested_by", ["body", "header"])
def test_the_streamed_chunks_add_up_to_the_response_without_streaming(
    http: httpx.Client, replica: psutil.Process, path: str, requested_by: str
) -> None:
    complete = http.post(path, json=REQUEST)
    body, headers = (
        (REQUEST | {"stream": True}, {}) if requested_by == "body" else (REQUEST, {"Accept": "text/event-stream"})
    )
    with http.stream("POST", path, json=body, headers=headers) as response:
        *token_events, last_event = list(EventSource(response).iter_sse())

    assert complete.status_code == 200, complete.text
    assert {event.event for event in token_events} == {"token"}
    assert last_event.event == "done"
    assert last_event.json() == complete.json()
    assert [{"text": text} for text in join_chunks(token_events, 2)] == complete.json()["predictions"]
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    served = {name: value for name, value in complete.headers.items() if name.startswith("x-shoal-")}
    assert served.keys() == {"x-shoal-model", "x-shoal-version", "x-shoal-digest"}
    assert served.items() <= dict(response.headers).items()
    assert len(token_events) > 10


@pytest.mark.parametrize("path", [DIRECT, STABLE])
def test_the_first_event_arrives_before_most_of_the_work_is_done(
    http: httpx.Client, replica: psutil.Process, path: str
) -> None:
    start_cpu_s = get_cpu_s(replica)
    with http.stream("POST", path, json=REQUEST | {"max_tokens": 60, "stream": True}) as response:
        events = EventSource(response).iter_sse()
        next(events)
        first_event_cpu_s = get_cpu_s(replica)
        *_, last_event = events
        end_cpu_s = get_cpu_s(replica)

    assert last_event.event == "done"
    assert first_event_cpu_s - start_cpu_s < (end_cpu_s - start_cpu_s) / 2


@pytest.mark.parametrize("path", [DIRECT, STABLE])
@pytest.mark.parametrize("stream", [True, False])
def test_closing_the_connection_stops_the_work_in_the_replica(
    cluster: Cluster, settings: Settings, replica: psutil.Process, path: str, stream: bool
) -> None:
    # The work would take a minute; the header tells Serve not to watch for disconnects, so that only the route does.
    body = {"inputs": ["good"] * 8, "max_tokens": 1000, "stream": stream}
    with open_http(settings, cluster) as http:
        http.headers["x-request-disconnect-disabled"] = "?1"
        if stream:
            with http.stream("POST", path, json=body) as response:
                next(EventSource(response).iter_sse())
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post(path, json=body, timeout=1.0)

    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        before = get_cpu_s(replica)
        time.sleep(0.5)
        # Serve itself takes a few hundredths of a second in an idle replica.
        if get_cpu_s(replica) - before < 0.15:
            return
    pytest.fail("the replica still works 5 s after the disconnect")


@pytest.mark.parametrize("prefix", ["/v2/models", "/api/v1/models"])
@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}])
def test_a_model_that_does_not_generate_text_refuses_to_stream(
    http: httpx.Client, prefix: str, headers: dict[str, str]
) -> None:
    body: dict[str, Any] = {"inputs": [[1, 2, 3, 4]]} | ({} if headers else {"stream": True})

    response = http.post(f"{prefix}/flowers/predict", json=body, headers=headers)

    assert response.status_code == 406
    assert response.json()["error"]["code"] == "not_streamable"
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("path", [DIRECT, STABLE])
def test_a_request_refused_before_the_first_event_has_its_own_status(
    http: httpx.Client, replica: psutil.Process, path: str
) -> None:
    assert http.post(path, json={"inputs": [3], "stream": True}).status_code == 422
    assert http.post(path, json={"inputs": ["a"], "max_tokens": 0, "stream": True}).status_code == 422
    assert http.post(path, json={"inputs": ["a"], "stream": "yes"}).status_code == 400


def test_the_python_client_and_the_command_line_stream(
    serving_cluster: Cluster, replica: psutil.Process, shoal: ShoalCli, settings: Settings
) -> None:
    key = (settings.home / "secrets" / "admin_key").read_text().strip()
    with Client(serving_cluster.url, key) as client:
        stream = client.stream("writer", ["good"], max_tokens=20, seed=1)
        chunks = list(stream)
        predictions = client.predict("writer", ["good"], max_tokens=20, seed=1)
        with pytest.raises(errors.NotStreamable):
            client.stream("flowers", [[1, 2, 3, 4]])
    streamed = shoal("predict", "writer", json.dumps({"inputs": ["good"], "max_tokens": 20, "seed": 1, "stream": True}))
    refused = shoal("predict", "flowers", '{"inputs": [[1, 2, 3, 4]], "stream": true}')

    assert len(chunks) > 5
    assert [{"text": "".join(chunk.text for chunk in chunks)}] == stream.predictions == predictions
    assert streamed.stdout == predictions[0]["text"] + "\n"
    assert refused.returncode == 2
    assert "does not generate text" in refused.stderr
