"""ModelStreamInfer of Triton's extension: models whose answer grows, and several requests in one call."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from deployments.control.catalog import Catalog
from deployments.models.served_model import ServedModel
from deployments.protocols.grpc import messages
from deployments.protocols.oip import binary
from deployments.server.sse import Event
from deployments.settings import Limits
from deployments.specs.model_deployment import ModelEndpoint
from tests.conftest import wait_until
from tests.deployments.control.conftest import LocalClient
from tests.deployments.control.grpc_calls import infer_request, open_stream, run_gateway
from tests.deployments.local_models import LocalModels
from training.bundle.verify import verify_bundle

pytestmark = pytest.mark.anyio


@pytest.fixture
def writer(all_models: LocalModels, tmp_path: Path) -> ServedModel:
    folder = all_models.bundle_folder("writer")
    digest = verify_bundle(folder).digest
    return ServedModel(ModelEndpoint(name="writer", version=1, digest=digest, uri=str(folder)), tmp_path)


@pytest.fixture
async def channel(catalog: Catalog, local_client: LocalClient, writer: ServedModel) -> AsyncIterator[Any]:
    client = LocalClient({**local_client._models, "writer": writer})
    async with run_gateway(catalog.status, client, Limits()) as channel:
        yield channel


def generate_request(prompt: str = "a", *, raw: bool = False, **fields: Any) -> Any:
    """A request as Triton's clients send one to its vLLM backend."""
    request = messages.ModelInferRequest(**{"model_name": "writer", "id": "7"} | fields)
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    if raw:
        request.raw_input_contents.append(binary.encode_texts([prompt.encode()]))
    else:
        tensor.contents.bytes_contents.append(prompt.encode())
    request.parameters["max_tokens"].int64_param = 4
    request.parameters["temperature"].double_param = 0.0
    return request


def get_text(response: Any) -> str:
    (output,) = response.infer_response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("text_output", "BYTES", [1])
    (text,) = output.contents.bytes_contents
    return text.decode()  # type: ignore[no-any-return]


async def exchange(channel: Any, *requests: Any) -> list[Any]:
    """Send requests, close this side, and read every response."""
    stream = open_stream(channel)
    for request in requests:
        await stream.write(request)
    await stream.done_writing()
    return [response async for response in stream]


@pytest.mark.parametrize("raw", [False, True])
async def test_a_text_comes_in_parts_and_the_last_response_says_so(
    channel: Any, writer: ServedModel, raw: bool
) -> None:
    responses = await exchange(channel, generate_request(raw=raw))

    body = b'{"inputs": ["a"], "max_tokens": 4, "temperature": 0}'
    expected = (await writer.predict(body, "application/json")).decode()
    parts = [get_text(response) for response in responses]
    assert len([part for part in parts if part]) > 1
    assert parts[-1] == ""
    assert "".join(parts) in expected
    finals = [response.infer_response.parameters["triton_final_response"].bool_param for response in responses]
    assert finals == [False] * (len(responses) - 1) + [True]
    assert {(each.infer_response.id, each.infer_response.model_name) for each in responses} == {("7", "writer")}


async def test_requests_with_tensors_are_answered_one_after_the_other(channel: Any) -> None:
    responses = await exchange(channel, *(infer_request(id=str(number)) for number in range(3)))

    assert [response.infer_response.id for response in responses] == ["0", "1", "2"]
    assert list(responses[0].infer_response.outputs[0].shape) == [1, 3]


async def test_an_error_is_a_response_and_the_stream_goes_on(channel: Any) -> None:
    unknown_option = generate_request()
    unknown_option.parameters["beam_width"].int64_param = 3

    responses = await exchange(
        channel,
        infer_request(model_name="roses"),
        unknown_option,
        generate_request(model_version="9"),
        generate_request(model_name="flowers"),
        infer_request(id="last"),
    )

    messages_ = [response.error_message for response in responses]
    assert "no model 'roses'" in messages_[0]
    assert "'beam_width'; generation takes max_tokens, temperature, seed" in messages_[1]
    assert messages_[2]
    assert messages_[3]
    assert (messages_[-1], responses[-1].infer_response.id) == ("", "last")
    assert len(responses) == 5


async def test_the_prompt_must_be_one_text(channel: Any) -> None:
    two = generate_request()
    two.inputs[0].contents.bytes_contents.append(b"b")
    none = generate_request()
    del none.inputs[0].contents.bytes_contents[:]
    no_text = generate_request()
    no_text.inputs[0].contents.bytes_contents[0] = b"\xff"

    responses = await exchange(channel, two, none, no_text)

    assert all(response.error_message for response in responses)
    assert not any("internal error" in response.error_message for response in responses)


async def test_what_is_no_message_is_a_response_too(channel: Any) -> None:
    stub = channel.stream_stream(f"/{messages.SERVICE_NAME}/ModelStreamInfer")
    stream = stub(metadata=(("x-shoal-edge", "of the edge"),))
    await stream.write(b"\xff\xff")
    await stream.done_writing()

    response = messages.ModelStreamInferResponse.FromString(await stream.read())

    assert "are not a ModelInferRequest" in response.error_message


class EndlessClient:
    """Generates until its caller has gone."""

    is_closed = False

    async def stream(self, model: str, body: bytes, *_: Any, **__: Any) -> AsyncGenerator[Event]:
        try:
            while True:
                yield "token", b'{"row": 0, "text": "a"}'
                await asyncio.sleep(0.01)
        finally:
            self.is_closed = True


async def test_a_caller_that_cancels_ends_the_generation(catalog: Catalog) -> None:
    client = EndlessClient()
    async with run_gateway(catalog.status, client, Limits()) as channel:
        stream = open_stream(channel)
        await stream.write(generate_request())
        assert get_text(await stream.read()) == "a"

        stream.cancel()

        assert await asyncio.to_thread(wait_until, lambda: client.is_closed, 3)


class FailingClient:
    async def infer(self, *_: Any) -> Any:
        raise ZeroDivisionError("secret detail")


async def test_an_internal_error_does_not_show_its_reason(catalog: Catalog) -> None:
    async with run_gateway(catalog.status, FailingClient(), Limits()) as channel:
        (response,) = await exchange(channel, infer_request())

    assert "internal error" in response.error_message
    assert "secret" not in response.error_message


async def test_an_unknown_method_is_unimplemented(channel: Any) -> None:
    stub = channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelDestroy")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub(b"", metadata=(("x-shoal-edge", "of the edge"),))

    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
