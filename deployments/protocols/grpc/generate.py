"""Streams of generated text over gRPC: a request's prompt and options to a `predict` body, its events to responses.

Request walk: deployments.control.grpc_gateway -> [generate.py] -> deployments.server.handle_client
The tensors are named as in Triton's vLLM backend: the prompt is `text_input`, each part of the text `text_output`.
https://github.com/triton-inference-server/vllm_backend
"""

from typing import Any

import msgspec

from deployments.errors import UnknownParameter
from deployments.protocols.grpc.messages import ModelInferResponse
from deployments.protocols.oip import binary
from deployments.protocols.predict.events import DONE, TOKEN
from training.bundle.datatypes import BYTES

PROMPT, TEXT = "text_input", "text_output"
OPTIONS = ("max_tokens", "temperature", "seed")
# Triton's clients end a stream of one request by it.
FINAL_RESPONSE = "triton_final_response"


def is_generate_request(request: Any) -> bool:
    """Whether a ModelInferRequest has a prompt instead of a model's tensors."""
    return len(request.inputs) == 1 and request.inputs[0].name == PROMPT and request.inputs[0].datatype == BYTES


def encode_predict_body(request: Any) -> bytes:
    """Translate a ModelInferRequest with a prompt to a body of `predict`.

    Raises:
        InvalidShape: there is not exactly one prompt.
        InvalidType: it is no UTF-8.
        UnknownParameter: an option that generation does not have.
    """
    contents = request.inputs[0].contents.bytes_contents
    data = request.raw_input_contents[0] if request.raw_input_contents else binary.encode_texts(contents)
    (prompt,) = binary.decode_texts(data, 1)
    options: dict[str, Any] = {}
    for name, value in request.parameters.items():
        if name not in OPTIONS:
            raise UnknownParameter(f"parameter {name!r}; generation takes {', '.join(OPTIONS)}")
        options[name] = getattr(value, value.WhichOneof("parameter_choice") or "string_param")
    return msgspec.json.encode({"inputs": [prompt], "stream": True, **options})


def build_response(request: Any, version: str, event: str, data: bytes) -> Any:
    """Build the ModelInferResponse of one event of a stream."""
    response = ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
    text = msgspec.json.decode(data)["text"] if event == TOKEN else ""
    response.outputs.add(name=TEXT, datatype=BYTES, shape=[1]).contents.bytes_contents.append(text.encode())
    response.parameters[FINAL_RESPONSE].bool_param = event == DONE
    return response
