"""Whatever is sent to a model, of every kind there is, gets an answer or is refused with a reason: never a fault."""

import asyncio
import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cluster.local.secrets import hash_key
from deployments.errors import ClientError
from deployments.models.replica import ServedModel
from deployments.protocols.arrays import NUMPY
from deployments.server.asgi import App, Message, Receive, Scope, Send
from deployments.server.authentication import Caller
from deployments.server.layers import compose_http
from deployments.server.routes import ModelRoutes
from deployments.settings import Limits
from deployments.specs.model import Endpoint
from tests.deployments.local_models import LocalModels
from tests.deployments.server import hostile
from tests.deployments.server.hostile import Hostile
from training.bundle.load import verify_bundle
from training.bundle.manifest import Manifest, ModelInfo
from training.bundle.save import save_bundle
from training.data.tokenizer import Tokenizer
from training.recipe.spec import TokenizerConfig
from training.schema import (
    ClassOutput,
    Feature,
    ImageInput,
    ImageOutput,
    NumberOutput,
    SeriesInput,
    SpanOutput,
    TableInput,
    TextInput,
)
from training.zoo.nets.recurrent import sequence_classifier
from training.zoo.nets.tagger import tagger
from training.zoo.nets.vae import VAE

KEY = b"a key"
LIMITS = Limits(max_body_bytes=100_000, max_rows=64, max_batch_rows=8, max_image_pixels=300_000)
SENTENCE = "She gave him a book ."
WORDS = Tokenizer.fit(TokenizerConfig(kind="words"), [SENTENCE])
FROM_SMALL_MODELS = ("by-x", "sum", "stacked", "mood", "writer", "finder", "light")


def save_others(folder: Path) -> None:
    """A bundle of each kind that small_models has not: series, marked texts, tables with gaps, new pictures."""
    torch.manual_seed(0)

    def save(name: str, words: Any, answer: Any, net: nn.Module, rows: Tensor, task: Any, **more: Any) -> None:
        save_bundle(
            folder / name,
            net,
            inputs=rows,
            info=ModelInfo(name=name, task=task, input_schema=words, output_schema=answer),
            **more,
        )

    ab = ClassOutput(labels=("n", "p"))
    net = sequence_classifier(features=2, classes=2, cell="gru", width=4)
    save(
        "series",
        SeriesInput(features=("a", "b"), max_time_steps=5),
        ab,
        net,
        torch.randn(2, 4, 2),
        "tabular-classification",
    )
    gaps = TableInput(
        features=(Feature(name="weight"), Feature(name="origin", categories=("usa", "japan"))), allow_missing=True
    )
    save("cars", gaps, NumberOutput(name="mpg"), Filled(), torch.ones(2, 2), "tabular-regression", outputs=("value",))
    marked = {"tokeniser": WORDS, "example": {"text": SENTENCE, "predicate": [4, 8]}}
    rows = torch.tensor([WORDS.encode_marked(SENTENCE, 4, 8).ids] * 2)
    words = TextInput(max_tokens=16, has_predicate=True)
    net = tagger(vocabulary=len(WORDS), classes=5, dim=4, width=4)
    save("marked", words, SpanOutput(labels=("A", "B")), net, rows, "token-classification", **marked)
    vae, pixels = VAE(1, 4, 4, latent=2, hidden=4), torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    outputs: Any = {"outputs": ("pixels", "mean", "log_variance"), "decoder": vae.decode}
    grey = ImageInput(height=4, width=4, mode="L")
    save("vae", grey, ImageOutput(latent_size=2), vae, pixels, "image-generation", **outputs)


class Filled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.nan_to_num().sum(1, keepdim=True)


class Service:
    """Every model behind its layers, without a socket: what is raised within comes out as it is."""

    def __init__(self, folders: list[Path], cache: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.models: dict[str, ServedModel] = {}
        self._apps: dict[str, App] = {}
        for folder in folders:
            digest = verify_bundle(folder).digest
            endpoint = Endpoint(name=folder.name, version=1, digest=digest, uri=str(folder), limits=LIMITS)
            model = self.models[folder.name] = ServedModel(endpoint, cache)
            routes = self._noting(ModelRoutes(model))
            self._apps[folder.name] = compose_http(routes, LIMITS, {hash_key(KEY.decode()): Caller("tester")})
        self.faults: list[BaseException] = []

    def _noting(self, app: App) -> App:
        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except ClientError:
                raise
            except Exception as fault:
                self.faults.append(fault)
                raise

        return noting

    def post(self, asked: Hostile) -> tuple[int, bytes]:
        """Send a request; returns status and body."""
        headers = [(b"authorization", b"Bearer " + KEY)]
        headers += [(name.encode(), value.encode()) for name, value in asked.headers]
        path = f"/v2/models/{asked.model}/{asked.path}"
        scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        said: list[Message] = []
        messages = iter([{"type": "http.request", "body": asked.body, "more_body": False}])

        async def receive() -> Message:
            if (message := next(messages, None)) is not None:
                return message
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            said.append(message)

        self.loop.run_until_complete(self._apps[asked.model](scope, receive, send))
        return said[0]["status"], b"".join(message.get("body", b"") for message in said[1:])


@pytest.fixture(scope="module")
def service(everything: LocalModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("hostile")
    save_others(folder)
    folders = [everything.folder(name) for name in FROM_SMALL_MODELS] + sorted(folder.iterdir())
    made = Service(folders, tmp_path_factory.mktemp("cache"))
    yield made
    made.loop.close()


def requests(model: ServedModel) -> st.SearchStrategy[Hostile]:
    """Hostile requests to one model, made from its own example and tensors."""
    name, (spec,) = model.endpoint.name, model.manifest.inputs
    shape = [2, *(max(size, 3) if size < 0 else size for size in spec.shape[1:])]
    count = torch.Size(shape).numel()
    tensor = {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": [1] * count}
    valid = {"id": "x", "inputs": [tensor], "outputs": [{"name": each.name} for each in model.manifest.outputs]}
    kinds = [
        hostile.in_words(name, in_words(model)),
        hostile.in_words(name, in_words(model)),
        hostile.in_tensors(name, valid | {"parameters": {"binary_data_output": False, "sequence_id": 1}}),
        hostile.in_binary(name, valid, NUMPY[spec.datatype].itemsize),
        hostile.garbage(name),
    ]
    if isinstance(model.manifest.input_schema, ImageInput):
        kinds.append(hostile.as_picture(name))
    return st.one_of(kinds)


def in_words(model: ServedModel) -> list[dict[str, Any]]:
    """Valid requests in the words of the task, with all that may be chosen."""
    manifest: Manifest = model.manifest
    chosen: dict[str, Any] = {
        "classes": {"top_k": 2},
        "boxes": {"min_score": 0.1},
        "text": {"max_tokens": 2, "temperature": 0.7, "seed": 3, "stream": True},
        "picture": {"seed": 3, "samples": 0},
    }.get(manifest.output_schema.kind, {})
    valid = [model.example | chosen]
    if isinstance(manifest.input_schema, TableInput):
        row = model.example["inputs"][0]
        valid.append({"inputs": [list(row.values()) if isinstance(row, dict) else row], **chosen})
    if isinstance(manifest.input_schema, ImageInput):
        words = manifest.input_schema
        grey = [[7] * words.width] * words.height
        valid += [{"inputs": [grey], **chosen}, {"inputs": [[grey]], **chosen}]
    if isinstance(manifest.output_schema, ImageOutput):
        valid.append({"samples": 1, "seed": 3})
    return valid


def answers_or_refuses(service: Service, asked: Hostile) -> None:
    """Claim: it is an answer of JSON numbers, a 4xx that says why, or what a request's own timeout brings."""
    service.faults.clear()

    status, body = service.post(asked)

    assert not service.faults, service.faults
    assert status == 200 or 400 <= status < 500, (status, body[:300])
    if status >= 400:
        assert json.loads(body)["error"], body[:300]
    elif asked.path == hostile.WORDS:
        assert b'"internal"' not in body
        assert b"null" not in body


def ask_all(service: Service, count: int, start: int) -> None:
    """Send so many hostile requests, the same for the same start."""
    every = st.one_of([requests(model) for model in service.models.values()])

    @seed(start)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(every)
    def ask(asked: Hostile) -> None:
        answers_or_refuses(service, asked)

    ask()


def test_hostile_requests_are_answered_or_refused_with_a_reason(service: Service) -> None:
    ask_all(service, 400, 0)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_hostile_requests_bring_no_fault_and_leave_no_memory_behind(service: Service) -> None:
    rounds, most_mib = 100, 200
    ask_all(service, 1000, 0)
    before = peak_mib()

    for start in range(1, rounds):
        ask_all(service, 1000, start)

    assert peak_mib() - before < most_mib


def test_an_answer_for_which_json_has_no_word_is_refused(service: Service) -> None:
    body = json.dumps({"inputs": [[3e38, 3e38]]}).encode()

    status, said = service.post(Hostile("sum", hostile.WORDS, (), body))

    assert status == 422
    assert "row 0" in json.loads(said)["error"]["message"]


def peak_mib() -> float:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
