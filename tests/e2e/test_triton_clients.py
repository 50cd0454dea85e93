"""The Open Inference Protocol, spoken by clients that are not ours: Triton's, over HTTP and gRPC, sync and async."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.grpc.auth import BasicAuth
from tritonclient.utils import InferenceServerException

from cluster.local import secrets
from cluster.local.record import Cluster
from cluster.settings import Settings
from deployments.protocols.grpc import messages

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]], dtype=np.float32)
PICTURE = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
TRANSPORTS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(scope="module")
def headers(settings: Settings, served: Cluster) -> dict[str, str]:
    return {"authorization": f"Bearer {secrets.read_secret(settings.home, secrets.ADMIN_KEY)}"}


class Caller:
    """One of Triton's clients with the key in every call; the two differ in a few words only."""

    def __init__(self, name: str, served: Cluster, headers: dict[str, str]) -> None:
        self.name, self.words = name, TRANSPORTS[name]
        address = served.grpc_address if name == "grpc" else served.url.removeprefix("http://")
        self.client: Any = self.words.InferenceServerClient(address)
        self.headers = headers

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        # A copy: over HTTP this client notes the body's lengths in the very dict that it is given.
        return getattr(self.client, method)(*arguments, headers=dict(self.headers), **options)

    def infer(self, model: str, array: np.ndarray, *, name: str = "input", kind: str = "", **options: Any) -> Any:
        return self.call("infer", model, [tensor(self.words, array, name, kind)], **options)


def tensor(words: Any, array: np.ndarray, name: str = "input", kind: str = "", **how: Any) -> Any:
    kind = kind or tritonclient.utils.np_to_triton_dtype(array.dtype)
    given = words.InferInput(name, list(array.shape), kind)
    given.set_data_from_numpy(array, **how)
    return given


@pytest.fixture(scope="module", params=sorted(TRANSPORTS))
def caller(request: pytest.FixtureRequest, served: Cluster, headers: dict[str, str]) -> Iterator[Caller]:
    made = Caller(request.param, served, headers)
    yield made
    made.client.close()


@pytest.fixture(scope="module")
def expected(http: httpx.Client) -> np.ndarray:
    """What the same rows get as JSON."""
    sent = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": ROWS.flatten().tolist()}
    output = http.post("/v2/models/flowers/infer", json={"inputs": [sent]}).json()["outputs"][0]
    return np.array(output["data"], dtype=np.float32).reshape(output["shape"])


def said(metadata: Any) -> dict[str, Any]:
    """Metadata as a dict, whichever way it came."""
    if isinstance(metadata, dict):
        return metadata
    from google.protobuf.json_format import MessageToDict

    found = MessageToDict(metadata)
    for tensor in (*found.get("inputs", []), *found.get("outputs", [])):
        tensor["shape"] = [int(size) for size in tensor["shape"]]
    return found


def test_health_needs_no_key_and_everything_else_does(caller: Caller) -> None:
    client = caller.client
    assert client.is_server_live()
    assert client.is_server_ready()

    for call in (client.get_server_metadata, lambda: client.get_model_metadata("flowers")):
        with pytest.raises(InferenceServerException, match="no API key"):
            call()
    with pytest.raises(InferenceServerException, match="no API key") as caught:
        client.infer("flowers", [tensor(caller.words, ROWS)])
    assert caught.value.status() in ("401", "StatusCode.UNAUTHENTICATED")
    with pytest.raises(InferenceServerException, match="unknown API key"):
        client.infer("flowers", [tensor(caller.words, ROWS)], headers={"authorization": "Bearer shoal-0"})


def test_metadata_and_readiness(caller: Caller) -> None:
    assert said(caller.call("get_server_metadata"))["extensions"] == ["binary_tensor_data", "classification"]
    for version in ("", "1"):
        assert caller.call("is_model_ready", "flowers", version)
        assert said(caller.call("get_model_metadata", "flowers", version)) == {
            "name": "flowers",
            "versions": ["1"],
            "platform": "pytorch_export",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
        }


@pytest.mark.parametrize("version", ["", "1"])
def test_rows_get_the_same_answer_as_in_json(caller: Caller, expected: np.ndarray, version: str) -> None:
    answer = caller.infer("flowers", ROWS, model_version=version, request_id="abc")

    assert answer.as_numpy("logits").dtype == np.float32
    assert answer.as_numpy("logits") == pytest.approx(expected, abs=1e-6)
    response = said(answer.get_response())
    assert response["id"] == "abc"
    assert (response.get("model_name") or response["modelName"]) == "flowers"
    assert (response.get("model_version") or response["modelVersion"]) == "1"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_over_http_values_may_be_json_or_bytes_each_way(
    served: Cluster, headers: dict[str, str], expected: np.ndarray, binary_in: bool, binary_out: bool
) -> None:
    caller = Caller("http", served, headers)
    given = tensor(caller.words, ROWS, binary_data=binary_in)
    outputs = [tritonclient.http.InferRequestedOutput("logits", binary_data=binary_out)]

    answer = caller.call("infer", "flowers", [given], outputs=outputs)

    assert answer.as_numpy("logits") == pytest.approx(expected, abs=1e-6)
    assert ("data" in answer.get_output("logits")) is not binary_out


def test_a_picture_of_bytes_is_answered(caller: Caller) -> None:
    answer = caller.infer("pictures", PICTURE)

    assert answer.as_numpy("logits").shape == (3, 2)


def test_many_rows_come_back_in_order(caller: Caller, expected: np.ndarray) -> None:
    rows = np.random.default_rng(1).normal(size=(5000, 4)).astype(np.float32)
    rows[4321] = ROWS[1]

    answer = caller.infer("flowers", rows).as_numpy("logits")

    assert answer.shape == (5000, 3)
    assert answer[4321] == pytest.approx(expected[1], abs=1e-5)


def test_a_requested_output_may_come_as_its_best_classes(caller: Caller, expected: np.ndarray) -> None:
    outputs = [caller.words.InferRequestedOutput("logits", class_count=2)]

    answer = caller.infer("flowers", ROWS, outputs=outputs).as_numpy("logits")

    assert answer.shape == (2, 2)
    value, index, label = answer[0, 0].decode().split(":")
    assert int(index) == expected[0].argmax()
    assert label == "abc"[int(index)]
    assert float(value) == pytest.approx(expected[0].max(), abs=1e-5)


def test_what_clients_may_say_beside_is_taken(caller: Caller) -> None:
    answer = caller.infer(
        "flowers", ROWS, priority=1, timeout=20_000_000, sequence_id=7, sequence_start=True, sequence_end=True
    )

    assert answer.as_numpy("logits").shape == (2, 3)


NOT_FOUND, INVALID = ("404", "StatusCode.NOT_FOUND"), ("422", "400", "StatusCode.INVALID_ARGUMENT")
WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "shape": ({"array": ROWS[:, :3].copy()}, INVALID, r"shape \[2, 3\]; this model takes \[-1, 4\]"),
    "rank": ({"array": ROWS[0]}, INVALID, r"shape \[4\]; this model takes"),
    "no rows": ({"array": ROWS[:0]}, INVALID, "0 rows"),
    "datatype": ({"array": ROWS.astype(np.float64)}, INVALID, "FP64; this model takes FP32"),
    "texts": ({"array": np.array([[b"a"] * 4], dtype=np.object_)}, INVALID, "BYTES; this model takes FP32"),
    "NaN": ({"array": ROWS * np.float32(np.nan)}, INVALID, "not finite"),
    "input": ({"name": "x"}, INVALID, "'x'; this model takes one, 'input'"),
    "model": ({"model": "roses"}, NOT_FOUND, "no model 'roses' is deployed"),
    "the service's own application": ({"model": "shoal.control"}, NOT_FOUND, "no model 'shoal.control' is deployed"),
    "version": ({"model_version": "9"}, NOT_FOUND, "version '9' is not deployed; version 1 is"),
    "parameter": ({"parameters": {"gain": 2}}, INVALID, "unknown field `gain`.*; known: "),
    "no time": ({"timeout": 1}, ("504", "StatusCode.DEADLINE_EXCEEDED"), "no response within the request's timeout"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_the_protocols_words(caller: Caller, case: str) -> None:
    changes, statuses, message = WRONG[case]
    options = {"model": "flowers", "array": ROWS} | changes

    with pytest.raises(InferenceServerException, match=message) as caught:
        caller.infer(options.pop("model"), options.pop("array"), **options)

    assert caught.value.status() in statuses
    assert caller.infer("flowers", ROWS).as_numpy("logits").shape == (2, 3)


def test_an_unknown_output_is_told(caller: Caller) -> None:
    with pytest.raises(InferenceServerException, match="no output 'y'; this model has 'logits'"):
        caller.infer("flowers", ROWS, outputs=[caller.words.InferRequestedOutput("y")])


def test_an_unknown_model_is_not_ready_and_has_no_metadata(caller: Caller) -> None:
    with pytest.raises(InferenceServerException, match="no model 'roses' is deployed"):
        caller.call("get_model_metadata", "roses")
    if caller.name == "http":
        assert not caller.call("is_model_ready", "roses")
    else:
        with pytest.raises(InferenceServerException, match="no model 'roses' is deployed"):
            caller.call("is_model_ready", "roses")


def test_what_is_no_part_of_the_protocol_is_refused(caller: Caller) -> None:
    shared = caller.words.InferInput("input", [2, 4], "FP32")
    shared.set_shared_memory("region", 32)

    with pytest.raises(InferenceServerException, match=r"shared_memory|neither data nor"):
        caller.call("infer", "flowers", [shared])
    for method in ("get_model_repository_index", "get_inference_statistics"):
        with pytest.raises(InferenceServerException, match=r"404|no path|no model|UNIMPLEMENTED"):
            caller.call(method)


def test_a_compressed_body_is_refused_over_http(served: Cluster, headers: dict[str, str]) -> None:
    with pytest.raises(InferenceServerException, match="send the body without one"):
        Caller("http", served, headers).infer("flowers", ROWS, request_compression_algorithm="gzip")


def test_grpc_compresses_by_itself(served: Cluster, headers: dict[str, str]) -> None:
    answer = Caller("grpc", served, headers).infer("flowers", ROWS, compression_algorithm="gzip")

    assert answer.as_numpy("logits").shape == (2, 3)


def test_a_message_over_the_limit_is_refused_over_grpc(served: Cluster, headers: dict[str, str]) -> None:
    caller = Caller("grpc", served, headers)

    with pytest.raises(InferenceServerException) as caught:
        caller.infer("flowers", np.zeros((3_000_000, 4), dtype=np.float32))

    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_calls_deadline_ends_it(served: Cluster, headers: dict[str, str]) -> None:
    with pytest.raises(InferenceServerException) as caught:
        Caller("grpc", served, headers).infer("flowers", np.zeros((60_000, 4), dtype=np.float32), client_timeout=0.001)

    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_tritons_own_way_to_send_a_password_is_taken(served: Cluster, settings: Settings) -> None:
    client = tritonclient.grpc.InferenceServerClient(served.grpc_address)
    client.register_plugin(BasicAuth("anybody", secrets.read_secret(settings.home, secrets.ADMIN_KEY)))

    assert client.is_model_ready("flowers")


def raw_call(served: Cluster, method: str, content: bytes, headers: dict[str, str]) -> bytes:
    """A call of bytes, whatever they are."""
    with grpc.insecure_channel(served.grpc_address) as channel:
        call = channel.unary_unary(f"/{messages.SERVICE_NAME}/{method}")
        answer: bytes = call(content, metadata=tuple(headers.items()), timeout=30)
        return answer


@pytest.mark.parametrize("content", [b"\xff", b"\x0a\xff", b"garbage", b"\x2a\x00" * 1_000_000, b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_the_callers_mistake(
    served: Cluster, headers: dict[str, str], content: bytes
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(served, "ModelInfer", content, headers)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    assert raw_call(served, "ServerLive", b"", headers) == b"\x08\x01"


def test_no_byte_is_read_for_who_has_no_key(served: Cluster) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(served, "ModelInfer", b"\xff", {})

    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


def test_values_in_typed_fields_are_answered_in_typed_fields(
    served: Cluster, headers: dict[str, str], expected: np.ndarray
) -> None:
    contents = {"fp32_contents": ROWS.flatten().tolist()}
    sent = {"name": "input", "datatype": "FP32", "shape": [2, 4], "contents": contents}
    request = messages.ModelInferRequest(model_name="flowers", inputs=[sent])

    answer = messages.ModelInferResponse.FromString(
        raw_call(served, "ModelInfer", request.SerializeToString(), headers)
    )

    assert list(answer.outputs[0].contents.fp32_contents) == pytest.approx(expected.flatten().tolist(), abs=1e-6)
    assert not answer.raw_output_contents


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["http", "grpc"])
async def async_client(request: pytest.FixtureRequest, served: Cluster) -> AsyncIterator[tuple[Any, Any]]:
    words = {"http": tritonclient.http.aio, "grpc": tritonclient.grpc.aio}[request.param]
    address = served.grpc_address if request.param == "grpc" else served.url.removeprefix("http://")
    async with words.InferenceServerClient(address) as client:
        yield client, TRANSPORTS[request.param]


@pytest.mark.anyio
async def test_async_clients_get_the_same(
    async_client: tuple[Any, Any], headers: dict[str, str], expected: np.ndarray
) -> None:
    client, words = async_client
    assert await client.is_server_ready()
    assert await client.is_model_ready("flowers", headers=headers)
    assert said(await client.get_model_metadata("flowers", headers=headers))["versions"] == ["1"]

    answer = await client.infer("flowers", [tensor(words, ROWS)], headers=dict(headers), request_id="7")
    assert answer.as_numpy("logits") == pytest.approx(expected, abs=1e-6)
    assert said(answer.get_response())["id"] == "7"

    with pytest.raises(InferenceServerException, match=r"this model takes \[-1, 4\]"):
        await client.infer("flowers", [tensor(words, ROWS[:, :2].copy())], headers=dict(headers))
    with pytest.raises(InferenceServerException, match="no API key"):
        await client.infer("flowers", [tensor(words, ROWS)])


@pytest.mark.anyio
async def test_async_json_needs_no_bytes(served: Cluster, headers: dict[str, str], expected: np.ndarray) -> None:
    async with tritonclient.http.aio.InferenceServerClient(served.url.removeprefix("http://")) as client:
        given = tensor(tritonclient.http, ROWS, binary_data=False)
        outputs = [tritonclient.http.InferRequestedOutput("logits", binary_data=False)]

        answer = await client.infer("flowers", [given], outputs=outputs, headers=dict(headers))

    assert answer.as_numpy("logits") == pytest.approx(expected, abs=1e-6)
