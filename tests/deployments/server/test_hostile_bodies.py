"""Any request to a model of any kind gets a response or is refused with a reason; none is an internal error."""

import asyncio
import json
import math
import resource
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deployments.access.authorization import Authorization
from deployments.errors import ClientError
from deployments.models.served_model import ServedModel
from deployments.server.middleware import HttpApp, compose_http
from deployments.server.request import Request, Response
from deployments.server.routes import ModelRoutes
from deployments.settings import Limits
from deployments.specs.model_deployment import ModelEndpoint
from tests.deployments.callers import TESTER
from tests.deployments.local_models import LocalModels
from tests.deployments.server import hostile
from tests.deployments.server.captured_request import CapturedRequest
from tests.deployments.server.hostile import HostileRequest
from training.bundle.datatypes import DATATYPES
from training.bundle.manifest import Manifest, ModelInfo
from training.bundle.save import save_bundle
from training.bundle.verify import verify_bundle
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
from training.zoo.nets.recurrent import rnn_series_classifier
from training.zoo.nets.tagger import tagger
from training.zoo.nets.vae import VAE

SECRET = "of the edge"
LIMITS = Limits(max_body_bytes=100_000, max_rows=64, max_batch_rows=8, max_image_pixels=300_000)
SENTENCE = "She gave him a book ."
TOKENIZER = Tokenizer.fit(TokenizerConfig(kind="words"), [SENTENCE])
SMALL_MODELS = ("by-x", "sum", "stacked", "mood", "writer", "finder", "light")


def save_other_bundles(folder: Path) -> None:
    """Save a bundle of each kind that small_models lacks: series, predicates, missing values, generated images."""
    torch.manual_seed(0)

    def save(name: str, schema: Any, output_schema: Any, net: nn.Module, rows: Tensor, task: Any, **files: Any) -> None:
        info = ModelInfo(name=name, task=task, input_schema=schema, output_schema=output_schema)
        save_bundle(folder / name, net, inputs=rows, info=info, **files)

    classes = ClassOutput(labels=("n", "p"))
    net = rnn_series_classifier(num_features=2, num_classes=2, cell_type="gru", hidden_size=4)
    save(
        "series",
        SeriesInput(features=("a", "b"), max_time_steps=5),
        classes,
        net,
        torch.randn(2, 4, 2),
        "tabular-classification",
    )
    table = TableInput(
        features=(Feature(name="weight"), Feature(name="origin", categories=("usa", "japan"))), allow_missing=True
    )
    save(
        "cars",
        table,
        NumberOutput(name="mpg"),
        SumPresent(),
        torch.ones(2, 2),
        "tabular-regression",
        outputs=("value",),
    )
    text_files = {"tokenizer": TOKENIZER, "example": {"text": SENTENCE, "predicate": [4, 8]}}
    rows = torch.tensor([TOKENIZER.encode_with_predicate(SENTENCE, 4, 8).ids] * 2)
    text = TextInput(max_tokens=16, has_predicate=True)
    net = tagger(vocab_size=len(TOKENIZER), num_classes=5, embedding_dim=4, hidden_size=4)
    save("roles", text, SpanOutput(labels=("A", "B")), net, rows, "token-classification", **text_files)
    vae, pixels = VAE(1, 4, 4, latent_size=2, hidden_size=4), torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    vae_files: Any = {"outputs": ("pixels", "mean", "log_variance"), "decoder": vae.decode}
    image = ImageInput(height=4, width=4, mode="L")
    save("vae", image, ImageOutput(latent_size=2), vae, pixels, "image-generation", **vae_files)


class SumPresent(nn.Module):
    """The sum of the features that are present."""

    def forward(self, x: Tensor) -> Tensor:
        return x.nan_to_num().sum(1, keepdim=True)


class RecordingApp(HttpApp):
    """Keeps what is raised besides ClientErrors."""

    def __init__(self, app: HttpApp, faults: list[Exception]) -> None:
        super().__init__(app.handler, app.layers, app.max_body_bytes)
        self.faults = faults

    def encode_error(self, request: Request, error: Exception) -> Response:
        """Keep a fault."""
        if not isinstance(error, ClientError):
            self.faults.append(error)
        return super().encode_error(request, error)


class Service:
    """Every model behind its layers, without a socket; keeps statuses, and what is raised besides ClientErrors."""

    def __init__(self, folders: list[Path], cache: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.models: dict[str, ServedModel] = {}
        self._apps: dict[str, HttpApp] = {}
        self.faults: list[Exception] = []
        for folder in folders:
            digest = verify_bundle(folder).digest
            endpoint = ModelEndpoint(name=folder.name, version=1, digest=digest, uri=str(folder), limits=LIMITS)
            model = self.models[folder.name] = ServedModel(endpoint, cache)
            self._apps[folder.name] = RecordingApp(
                compose_http(ModelRoutes(model), LIMITS, SECRET, Authorization()), self.faults
            )
        self.statuses: Counter[tuple[str, int]] = Counter()

    def post(self, request: HostileRequest) -> tuple[int, bytes]:
        """Send a request; returns status and body."""
        headers = [(b"x-shoal-edge", SECRET.encode()), (b"x-shoal-caller", TESTER.encode())]
        headers += [(name.encode(), value.encode()) for name, value in request.headers]
        path = f"/v2/models/{request.model}/{request.path}"
        captured = CapturedRequest(path, request.body, headers)
        status, body = self.loop.run_until_complete(captured.answer(self._apps[request.model]))
        self.statuses[request.model, status] += 1
        return status, body


@pytest.fixture(scope="module")
def service(all_models: LocalModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("hostile")
    save_other_bundles(folder)
    folders = [all_models.bundle_folder(name) for name in SMALL_MODELS] + sorted(folder.iterdir())
    service = Service(folders, tmp_path_factory.mktemp("cache"))
    yield service
    service.loop.close()


def hostile_requests(model: ServedModel) -> st.SearchStrategy[HostileRequest]:
    """Hostile requests to one model, derived from its own example and tensors."""
    name, (spec,) = model.endpoint.name, model.manifest.inputs
    shape = [2, *(max(size, 3) if size < 0 else size for size in spec.shape[1:])]
    count = torch.Size(shape).numel()
    tensor = {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": [1] * count}
    valid = {"id": "x", "inputs": [tensor], "outputs": [{"name": output.name} for output in model.manifest.outputs]}
    strategies = [
        hostile.predict_requests(name, valid_predict_requests(model)),
        hostile.predict_requests(name, valid_predict_requests(model)),
        hostile.infer_requests(name, valid | {"parameters": {"binary_data_output": False, "sequence_id": 1}}),
        hostile.binary_infer_requests(name, valid, DATATYPES[spec.datatype].itemsize),
        hostile.arbitrary_requests(name),
    ]
    if isinstance(model.manifest.input_schema, ImageInput):
        strategies.append(hostile.image_requests(name))
    return st.one_of(strategies)


def valid_predict_requests(model: ServedModel) -> list[dict[str, Any]]:
    """Valid `predict` requests, with all options."""
    manifest: Manifest = model.manifest
    options: dict[str, Any] = {
        "classes": {"top_k": 2},
        "boxes": {"min_score": 0.1},
        "text": {"max_tokens": 2, "temperature": 0.7, "seed": 3, "stream": True},
        "image": {"seed": 3, "samples": 0},
    }.get(manifest.output_schema.kind, {})
    valid = [model.example | options]
    if isinstance(manifest.input_schema, TableInput):
        row = model.example["inputs"][0]
        valid.append({"inputs": [list(row.values()) if isinstance(row, dict) else row], **options})
    if isinstance(manifest.input_schema, ImageInput):
        pixels = [[7] * manifest.input_schema.width] * manifest.input_schema.height
        valid += [{"inputs": [pixels], **options}, {"inputs": [[pixels]], **options}]
    if isinstance(manifest.output_schema, ImageOutput):
        valid.append({"samples": 1, "seed": 3})
    return valid


def assert_responds_or_refuses(service: Service, request: HostileRequest) -> None:
    """Assert that the response is a result of JSON numbers, or a 4xx with a message."""
    service.faults.clear()

    status, body = service.post(request)

    assert not service.faults, service.faults
    assert status == 200 or 400 <= status < 500, (status, body[:300])
    if status >= 400:
        assert json.loads(body)["error"], body[:300]
    elif request.path == hostile.PREDICT:
        assert b'"internal"' not in body
        assert b"null" not in body


def send_requests(service: Service, count: int, seed_: int) -> None:
    """Send `count` hostile requests, the same for the same seed."""
    requests = st.one_of([hostile_requests(model) for model in service.models.values()])

    @seed(seed_)
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(requests)
    def send(request: HostileRequest) -> None:
        assert_responds_or_refuses(service, request)

    send()


def test_hostile_requests_get_a_response_or_a_reason(service: Service) -> None:
    service.statuses.clear()
    for name, model in service.models.items():
        for body in valid_predict_requests(model):
            headers = (("content-type", "application/json"),)
            status, response = service.post(HostileRequest(name, hostile.PREDICT, headers, json.dumps(body).encode()))
            assert status == 200, (name, response[:300])

    send_requests(service, 400, 0)

    # Requests that are all refused by the same check would show nothing.
    assert len({status for _, status in service.statuses if status >= 400}) >= 3


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_hostile_requests_cause_no_fault_and_leak_no_memory(service: Service) -> None:
    rounds, max_growth_mib = 100, 200
    send_requests(service, 1000, 0)
    before = peak_mib()

    for seed_ in range(1, rounds):
        send_requests(service, 1000, seed_)

    assert peak_mib() - before < max_growth_mib


def test_an_output_that_json_cannot_encode_is_refused(service: Service) -> None:
    body = json.dumps({"inputs": [[3e38, 3e38]]}).encode()

    status, response = service.post(
        HostileRequest("sum", hostile.PREDICT, (("content-type", "application/json"),), body)
    )

    assert status == 422
    assert "row 0" in json.loads(response)["error"]["message"]


def test_a_tensor_that_json_cannot_encode_is_refused_and_counted_as_a_failure_and_bytes_hold_it(
    service: Service,
) -> None:
    def infer(parameters: dict[str, Any]) -> tuple[int, bytes]:
        tensor = {"name": "input", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
        header = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        length = (("inference-header-content-length", str(len(header))),)
        return service.post(HostileRequest("sum", "infer", length, header + struct.pack("<2f", 3e38, 3e38)))

    failures = service.models["sum"].report_passes().failures
    status, response = infer({})
    assert (status, b"is not finite for these rows" in response) == (422, True)
    assert service.models["sum"].report_passes().failures == failures + 1

    status, response = infer({"binary_data_output": True})
    assert (status, struct.unpack("<f", response[-4:])) == (200, (math.inf,))


def peak_mib() -> float:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
