"""Texts that are sent while they grow, through HAProxy and through the stable address."""

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
from cluster.local.record import Cluster, cluster_id, temp_dir
from cluster.settings import Settings
from deployments import errors
from deployments.client import Client
from tests.conftest import Shoal, open_http, serve
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import TextInput, TextOutput

TEXTS = ["这本书很好，不好看", "naïve 😀 good book .", "She gave him a book ."] * 2
TOKENISER = Tokenizer.fit(TokenizerConfig(kind="bpe", vocab_size=300), TEXTS)
DIRECT, STABLE = "/v2/models/writer/predict", "/api/v1/models/writer/predict"
ASKED = {"inputs": ["这本书", "good"], "max_tokens": 30, "seed": 5, "temperature": 1.0}


class Slow(nn.Module):
    """A language model that takes some hundredths of a second for each token, so that there is something to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(len(TOKENISER), 512)
        self.layer = nn.Linear(512, 512)
        self.out = nn.Linear(512, len(TOKENISER))

    def forward(self, x_BT: Tensor) -> Tensor:
        h_BTC = self.token(x_BT)
        for _ in range(40):
            h_BTC = torch.tanh(self.layer(h_BTC))
        return self.out(h_BTC)


@pytest.fixture(scope="module")
def replica(cluster: Cluster, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> psutil.Process:
    """The process that serves a slow language model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("writer") / "bundle"
    about = ModelInfo(
        name="writer", task="text-generation", input_schema=TextInput(max_tokens=16), output_schema=TextOutput()
    )
    rows = torch.randint(4, len(TOKENISER), (2, 8))
    save_bundle(folder, Slow(), inputs=rows, info=about, tokenizer=TOKENISER, example="good")
    serve(settings, cluster, folder)
    ours = processes.find_owned(cluster_id(settings.home), temp_dir(settings.home))
    (made,) = [process for process in ours if "ServeReplica:writer" in " ".join(process.cmdline()[:1])]
    return made


def spent_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def pieces_of(events: list[Any], rows: int) -> list[str]:
    texts = [""] * rows
    for event in events:
        piece = event.json()
        texts[piece["row"]] += piece["text"]
    return texts


@pytest.mark.parametrize("path", [DIRECT, STABLE])
@pytest.mark.parametrize("by", ["body", "header"])
def test_the_pieces_add_up_to_the_answer_without_streaming(
    http: httpx.Client, replica: psutil.Process, path: str, by: str
) -> None:
    whole = http.post(path, json=ASKED)
    body, headers = (ASKED | {"stream": True}, {}) if by == "body" else (ASKED, {"Accept": "text/event-stream"})
    with http.stream("POST", path, json=body, headers=headers) as response:
        *tokens, done = list(EventSource(response).iter_sse())

    assert whole.status_code == 200, whole.text
    assert {token.event for token in tokens} == {"token"}
    assert done.event == "done"
    assert done.json() == whole.json()
    assert [{"text": text} for text in pieces_of(tokens, 2)] == whole.json()["predictions"]
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert len(tokens) > 10


@pytest.mark.parametrize("path", [DIRECT, STABLE])
def test_the_first_event_arrives_before_most_of_the_work_is_done(
    http: httpx.Client, replica: psutil.Process, path: str
) -> None:
    begin_s = spent_s(replica)
    with http.stream("POST", path, json=ASKED | {"max_tokens": 60, "stream": True}) as response:
        events = EventSource(response).iter_sse()
        next(events)
        first_s = spent_s(replica)
        *_, last = events
        end_s = spent_s(replica)

    assert last.event == "done"
    assert first_s - begin_s < (end_s - begin_s) / 2


@pytest.mark.parametrize("path", [DIRECT, STABLE])
@pytest.mark.parametrize("stream", [True, False])
def test_closing_the_connection_stops_the_work_in_the_replica(
    cluster: Cluster, settings: Settings, replica: psutil.Process, path: str, stream: bool
) -> None:
    # A minute of work, were it not stopped; and Serve is told not to watch, so that it is the route that does.
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
        before = spent_s(replica)
        time.sleep(0.5)
        # An idle replica takes a few hundredths for Serve's own.
        if spent_s(replica) - before < 0.15:
            return
    pytest.fail("the replica still works 5 s after its caller left")


@pytest.mark.parametrize("prefix", ["/v2/models", "/api/v1/models"])
@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}])
def test_a_model_whose_answer_does_not_grow_says_so(http: httpx.Client, prefix: str, headers: dict[str, str]) -> None:
    body: dict[str, Any] = {"inputs": [[1, 2, 3, 4]]} | ({} if headers else {"stream": True})

    answer = http.post(f"{prefix}/flowers/predict", json=body, headers=headers)

    assert answer.status_code == 406
    assert answer.json()["error"]["code"] == "not_streamable"
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", [DIRECT, STABLE])
def test_what_is_refused_before_the_first_event_has_its_own_status(
    http: httpx.Client, replica: psutil.Process, path: str
) -> None:
    assert http.post(path, json={"inputs": [3], "stream": True}).status_code == 422
    assert http.post(path, json={"inputs": ["a"], "max_tokens": 0, "stream": True}).status_code == 422
    assert http.post(path, json={"inputs": ["a"], "stream": "yes"}).status_code == 400


def test_the_python_client_and_the_command_line_stream(
    served: Cluster, replica: psutil.Process, shoal: Shoal, settings: Settings
) -> None:
    key = (settings.home / "secrets" / "admin_key").read_text().strip()
    with Client(served.url, key) as client:
        stream = client.stream("writer", ["good"], max_tokens=20, seed=1)
        pieces = list(stream)
        whole = client.predict("writer", ["good"], max_tokens=20, seed=1)
        with pytest.raises(errors.NotStreamable):
            client.stream("flowers", [[1, 2, 3, 4]])
    said = shoal("predict", "writer", json.dumps({"inputs": ["good"], "max_tokens": 20, "seed": 1, "stream": True}))
    wrong = shoal("predict", "flowers", '{"inputs": [[1, 2, 3, 4]], "stream": true}')

    assert len(pieces) > 5
    assert [{"text": "".join(piece.text for piece in pieces)}] == stream.predictions == whole
    assert said.stdout == whole[0]["text"] + "\n"
    assert wrong.returncode == 2
    assert "does not generate text" in wrong.stderr
