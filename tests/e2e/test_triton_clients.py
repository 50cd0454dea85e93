"""The Open Inference Protocol with third-party clients: Triton's, over HTTP and gRPC, sync and async."""

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
from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from deployments.protocols.grpc import messages

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]], dtype=np.float32)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
TRANSPORTS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(scope="module")
def headers(settings: Settings, serving_cluster: Cluster) -> dict[str, str]:
    return {"authorization": f"Bearer {secrets.read_secret(settings.home, secrets.ADMIN_KEY)}"}


class Caller:
    """One of Triton's clients, with the key in every call; `module` is the client's module."""

    def __init__(self, name: str, serving_cluster: Cluster, headers: dict[str, str]) -> None:
        self.name, self.module = name, TRANSPORTS[name]
        address = serving_cluster.grpc_address if name == "grpc" else serving_cluster.url.removeprefix("http://")
        self.client: Any = self.module.InferenceServerClient(address)
        self.headers = headers

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        # A copy, since the HTTP client adds the body's lengths to the dict.
        return getattr(self.client, method)(*arguments, headers=dict(self.headers), **options)

    def infer(self, model: str, array: np.ndarray, *, name: str = "input", datatype: str = "", **options: Any) -> Any:
        return self.call("infer", model, [build_input(self.module, array, name, datatype)], **options)


def build_input(module: Any, array: np.ndarray, name: str = "input", datatype: str = "", **options: Any) -> Any:
    datatype = datatype or tritonclient.utils.np_to_triton_dtype(array.dtype)
    input_tensor = module.InferInput(name, list(array.shape), datatype)
    input_tensor.set_data_from_numpy(array, **options)
    return input_tensor


@pytest.fixture(scope="module", params=sorted(TRANSPORTS))
def caller(request: pytest.FixtureRequest, serving_cluster: Cluster, headers: dict[str, str]) -> Iterator[Caller]:
    caller = Caller(request.param, serving_cluster, headers)
    yield caller
    caller.client.close()


@pytest.fixture(scope="module")
def expected(http: httpx.Client) -> np.ndarray:
    """Outputs of the same rows in a JSON request."""
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": ROWS.flatten().tolist()}
    output = http.post("/v2/models/flowers/infer", json={"inputs": [tensor]}).json()["outputs"][0]
    return np.array(output["data"], dtype=np.float32).reshape(output["shape"])


def to_dict(metadata: Any) -> dict[str, Any]:
    """Convert metadata to a dict: HTTP gives one, gRPC a protobuf message."""
    if isinstance(metadata, dict):
        return metadata
    from google.protobuf.json_format import MessageToDict

    converted: dict[str, Any] = MessageToDict(metadata)
    for tensor in (*converted.get("inputs", []), *converted.get("outputs", [])):
        tensor["shape"] = [int(size) for size in tensor["shape"]]
    return converted


def test_health_needs_no_key_and_everything_else_does(caller: Caller) -> None:
    client = caller.client
    assert client.is_server_live()
    assert client.is_server_ready()

    for call in (client.get_server_metadata, lambda: client.get_model_metadata("flowers")):
        with pytest.raises(InferenceServerException, match="no API key"):
            call()
    with pytest.raises(InferenceServerException, match="no API key") as caught:
        client.infer("flowers", [build_input(caller.module, ROWS)])
    assert caught.value.status() in ("401", "StatusCode.UNAUTHENTICATED")
    with pytest.raises(InferenceServerException, match="unknown API key"):
        client.infer("flowers", [build_input(caller.module, ROWS)], headers={"authorization": "Bearer shoal-0"})


def test_metadata_and_readiness(caller: Caller) -> None:
    assert to_dict(caller.call("get_server_metadata"))["extensions"] == ["binary_tensor_data", "classification"]
    for version in ("", "1"):
        assert caller.call("is_model_ready", "flowers", version)
        assert to_dict(caller.call("get_model_metadata", "flowers", version)) == {
            "name": "flowers",
            "versions": ["1"],
            "platform": "pytorch_export",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
        }


@pytest.mark.parametrize("version", ["", "1"])
def test_rows_get_the_same_outputs_as_in_json(caller: Caller, expected: np.ndarray, version: str) -> None:
    result = caller.infer("flowers", ROWS, model_version=version, request_id="abc")

    assert result.as_numpy("logits").dtype == np.float32
    assert result.as_numpy("logits") == pytest.approx(expected, abs=1e-6)
    response = to_dict(result.get_response())
    assert response["id"] == "abc"
    assert (response.get("model_name") or response["modelName"]) == "flowers"
    assert (response.get("model_version") or response["modelVersion"]) == "1"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_over_http_inputs_and_outputs_may_be_json_or_bytes(
    serving_cluster: Cluster, headers: dict[str, str], expected: np.ndarray, binary_in: bool, binary_out: bool
) -> None:
    caller = Caller("http", serving_cluster, headers)
    input_tensor = build_input(caller.module, ROWS, binary_data=binary_in)
    outputs = [tritonclient.http.InferRequestedOutput("logits", binary_data=binary_out)]

    result = caller.call("infer", "flowers", [input_tensor], outputs=outputs)

    assert result.as_numpy("logits") == pytest.approx(expected, abs=1e-6)
    assert ("data" in result.get_output("logits")) is not binary_out


def test_an_image_may_be_sent_as_uint8_bytes(caller: Caller) -> None:
    result = caller.infer("images", PIXELS)

    assert result.as_numpy("logits").shape == (3, 2)


def test_many_rows_come_back_in_order(caller: Caller, expected: np.ndarray) -> None:
    rows = np.random.default_rng(1).normal(size=(5000, 4)).astype(np.float32)
    rows[4321] = ROWS[1]

    result = caller.infer("flowers", rows).as_numpy("logits")

    assert result.shape == (5000, 3)
    assert result[4321] == pytest.approx(expected[1], abs=1e-5)


def test_an_output_may_be_requested_as_its_top_classes(caller: Caller, expected: np.ndarray) -> None:
    outputs = [caller.module.InferRequestedOutput("logits", class_count=2)]

    result = caller.infer("flowers", ROWS, outputs=outputs).as_numpy("logits")

    assert result.shape == (2, 2)
    value, index, label = result[0, 0].decode().split(":")
    assert int(index) == expected[0].argmax()
    assert label == "abc"[int(index)]
    assert float(value) == pytest.approx(expected[0].max(), abs=1e-5)


def test_optional_request_parameters_are_accepted(caller: Caller) -> None:
    result = caller.infer(
        "flowers", ROWS, priority=1, timeout=20_000_000, sequence_id=7, sequence_start=True, sequence_end=True
    )

    assert result.as_numpy("logits").shape == (2, 3)


NOT_FOUND, INVALID = ("404", "StatusCode.NOT_FOUND"), ("422", "400", "StatusCode.INVALID_ARGUMENT")
INVALID_REQUESTS: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
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
    "timeout": ({"timeout": 1}, ("504", "StatusCode.DEADLINE_EXCEEDED"), "no response within the request's timeout"),
}


@pytest.mark.parametrize("case", INVALID_REQUESTS)
def test_an_invalid_request_gets_the_protocols_error(caller: Caller, case: str) -> None:
    changes, statuses, message = INVALID_REQUESTS[case]
    options = {"model": "flowers", "array": ROWS} | changes

    with pytest.raises(InferenceServerException, match=message) as caught:
        caller.infer(options.pop("model"), options.pop("array"), **options)

    assert caught.value.status() in statuses
    assert caller.infer("flowers", ROWS).as_numpy("logits").shape == (2, 3)


def test_an_unknown_output_is_refused(caller: Caller) -> None:
    with pytest.raises(InferenceServerException, match="no output 'y'; this model has 'logits'"):
        caller.infer("flowers", ROWS, outputs=[caller.module.InferRequestedOutput("y")])


def test_an_unknown_model_is_not_ready_and_has_no_metadata(caller: Caller) -> None:
    with pytest.raises(InferenceServerException, match="no model 'roses' is deployed"):
        caller.call("get_model_metadata", "roses")
    if caller.name == "http":
        assert not caller.call("is_model_ready", "roses")
    else:
        with pytest.raises(InferenceServerException, match="no model 'roses' is deployed"):
            caller.call("is_model_ready", "roses")


def test_what_the_protocol_does_not_have_is_refused(caller: Caller) -> None:
    shared = caller.module.InferInput("input", [2, 4], "FP32")
    shared.set_shared_memory("region", 32)

    with pytest.raises(InferenceServerException, match=r"shared_memory|neither data nor"):
        caller.call("infer", "flowers", [shared])
    for method in ("get_model_repository_index", "get_inference_statistics"):
        with pytest.raises(InferenceServerException, match=r"404|no path|no model|UNIMPLEMENTED"):
            caller.call(method)


def test_a_compressed_body_is_refused_over_http(serving_cluster: Cluster, headers: dict[str, str]) -> None:
    with pytest.raises(InferenceServerException, match="send the body without one"):
        Caller("http", serving_cluster, headers).infer("flowers", ROWS, request_compression_algorithm="gzip")


def test_grpc_decompresses_messages(serving_cluster: Cluster, headers: dict[str, str]) -> None:
    result = Caller("grpc", serving_cluster, headers).infer("flowers", ROWS, compression_algorithm="gzip")

    assert result.as_numpy("logits").shape == (2, 3)


def test_a_message_over_the_limit_is_refused_over_grpc(serving_cluster: Cluster, headers: dict[str, str]) -> None:
    caller = Caller("grpc", serving_cluster, headers)

    with pytest.raises(InferenceServerException) as caught:
        caller.infer("flowers", np.zeros((3_000_000, 4), dtype=np.float32))

    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_call_ends_at_its_deadline(serving_cluster: Cluster, headers: dict[str, str]) -> None:
    with pytest.raises(InferenceServerException) as caught:
        Caller("grpc", serving_cluster, headers).infer(
            "flowers", np.zeros((60_000, 4), dtype=np.float32), client_timeout=0.001
        )

    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_tritons_basic_auth_is_accepted(serving_cluster: Cluster, settings: Settings) -> None:
    client = tritonclient.grpc.InferenceServerClient(serving_cluster.grpc_address)
    client.register_plugin(BasicAuth("anybody", secrets.read_secret(settings.home, secrets.ADMIN_KEY)))

    assert client.is_model_ready("flowers")


def send_bytes(serving_cluster: Cluster, method: str, content: bytes, headers: dict[str, str]) -> bytes:
    """Call a gRPC method with any bytes as its message; returns the response's."""
    with grpc.insecure_channel(serving_cluster.grpc_address) as channel:
        call = channel.unary_unary(f"/{messages.SERVICE_NAME}/{method}")
        response: bytes = call(content, metadata=tuple(headers.items()), timeout=30)
        return response


@pytest.mark.parametrize("content", [b"\xff", b"\x0a\xff", b"garbage", b"\x2a\x00" * 1_000_000, b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_an_invalid_argument(
    serving_cluster: Cluster, headers: dict[str, str], content: bytes
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send_bytes(serving_cluster, "ModelInfer", content, headers)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert send_bytes(serving_cluster, "ServerLive", b"", headers) == b"\x08\x01"


def test_without_a_key_no_byte_of_the_message_is_parsed(serving_cluster: Cluster) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send_bytes(serving_cluster, "ModelInfer", b"\xff", {})

    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_inputs_in_typed_fields_get_outputs_in_typed_fields(
    serving_cluster: Cluster, headers: dict[str, str], expected: np.ndarray
) -> None:
    contents = {"fp32_contents": ROWS.flatten().tolist()}
    tensor = {"name": "input", "datatype": "FP32", "shape": [2, 4], "contents": contents}
    request = messages.ModelInferRequest(model_name="flowers", inputs=[tensor])

    response = messages.ModelInferResponse.FromString(
        send_bytes(serving_cluster, "ModelInfer", request.SerializeToString(), headers)
    )

    assert list(response.outputs[0].contents.fp32_contents) == pytest.approx(expected.flatten().tolist(), abs=1e-6)
    assert not response.raw_output_contents


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["http", "grpc"])
async def async_client(request: pytest.FixtureRequest, serving_cluster: Cluster) -> AsyncIterator[tuple[Any, Any]]:
    module = {"http": tritonclient.http.aio, "grpc": tritonclient.grpc.aio}[request.param]
    address = serving_cluster.grpc_address if request.param == "grpc" else serving_cluster.url.removeprefix("http://")
    async with module.InferenceServerClient(address) as client:
        yield client, TRANSPORTS[request.param]


@pytest.mark.anyio
async def test_async_clients_get_the_same_outputs(
    async_client: tuple[Any, Any], headers: dict[str, str], expected: np.ndarray
) -> None:
    client, module = async_client
    assert await client.is_server_ready()
    assert await client.is_model_ready("flowers", headers=headers)
    assert to_dict(await client.get_model_metadata("flowers", headers=headers))["versions"] == ["1"]

    result = await client.infer("flowers", [build_input(module, ROWS)], headers=dict(headers), request_id="7")
    assert result.as_numpy("logits") == pytest.approx(expected, abs=1e-6)
    assert to_dict(result.get_response())["id"] == "7"

    with pytest.raises(InferenceServerException, match=r"this model takes \[-1, 4\]"):
        await client.infer("flowers", [build_input(module, ROWS[:, :2].copy())], headers=dict(headers))
    with pytest.raises(InferenceServerException, match="no API key"):
        await client.infer("flowers", [build_input(module, ROWS)])


@pytest.mark.anyio
async def test_the_async_client_may_send_json(
    serving_cluster: Cluster, headers: dict[str, str], expected: np.ndarray
) -> None:
    async with tritonclient.http.aio.InferenceServerClient(serving_cluster.url.removeprefix("http://")) as client:
        input_tensor = build_input(tritonclient.http, ROWS, binary_data=False)
        outputs = [tritonclient.http.InferRequestedOutput("logits", binary_data=False)]

        result = await client.infer("flowers", [input_tensor], outputs=outputs, headers=dict(headers))

    assert result.as_numpy("logits") == pytest.approx(expected, abs=1e-6)
