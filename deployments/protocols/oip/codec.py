"""The Open Inference Protocol v2: tensors as JSON, or as bytes behind it (binary.py), which is how gRPC's come too.

Request walk: deployments.models.served_model
    -> [codec.py: decode] -> deployments.models.batching -> [codec.py: encode] -> deployments.models.served_model
https://github.com/kserve/open-inference-protocol, "Inference Request JSON Object" and its response, with Triton's
extensions for binary tensor data and classification.
"""
# Shapes: B rows of one request, C classes.

import math
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np

from deployments.errors import (
    EmptyRequest,
    InferenceFailed,
    InvalidShape,
    InvalidType,
    MalformedBody,
    PayloadTooLarge,
    UnknownParameter,
    UnknownTensor,
)
from deployments.protocols.arrays import Array, Outputs, Rows, check_finite, describe_json_error, parse_json_array
from deployments.protocols.decoded_size import OutputSizes, check_json_size, check_tensor_size
from deployments.protocols.oip import binary
from deployments.protocols.oip.input_checks import build_input_check
from deployments.server.scheduling import BATCH, INTERACTIVE
from deployments.settings import Limits
from training.bundle.datatypes import BYTES, Datatype, numpy_dtype
from training.bundle.manifest import Manifest, TensorSpec
from training.schema import ClassOutput, SeriesInput, TableInput, max_sequence_length

EXTENSIONS = ("binary_tensor_data", "classification")
"""The extensions in the server's metadata."""

# So many shapes of inputs that were found right are remembered.
MAX_ACCEPTED_SHAPES = 1024

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_NO_DATA = msgspec.Raw()


class InputParameters(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of one input."""

    binary_data_size: _Size | None = None


class OutputParameters(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of one requested output."""

    binary_data: bool | None = None
    classification: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of a request."""

    binary_data_output: bool = False
    # Microseconds; 0 is none, as in Triton.
    timeout: _Size = 0
    # As in Triton, 1 is the highest and 0 the default, which is the highest here; what is lower is batch.
    priority: _Size = 0
    # Accepted without effect, as by Triton's models without state.
    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = _NO_DATA
    parameters: InputParameters | None = None


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: OutputParameters | None = None


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Input]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[_Output] | None = None


_REQUEST_DECODER = msgspec.json.Decoder(_Request)
_TEXTS_DECODER = msgspec.json.Decoder(list[str])
_NESTED_TEXTS_DECODER = msgspec.json.Decoder(list[Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]])
_ENCODER = msgspec.json.Encoder()


class RequestedOutput(msgspec.Struct, frozen=True):
    """One output of the response.

    Attributes:
        index: among the net's outputs.
        name: of the output.
        datatype: of its elements.
        binary: whether its elements are sent as bytes.
        top_k: send the best k classes of each row as texts; 0 sends the tensor.
    """

    index: int
    name: str
    datatype: Datatype
    binary: bool = False
    top_k: int = 0

    @property
    def is_json(self) -> bool:
        """Whether each of its elements is a value of the response's JSON."""
        return not self.binary and not self.top_k


class InferRequest(msgspec.Struct):
    """A decoded request: B rows of the net's input, and the outputs of the response."""

    rows: Rows
    outputs: tuple[RequestedOutput, ...]
    id: str | None = None
    timeout_s: float | None = None
    priority: int = INTERACTIVE


InferResponse: TypeAlias = tuple[bytes, int | None]
"""A response's body, and the length of its JSON part where bytes follow."""


class OipCodec:
    """Decodes requests and encodes responses of one model version."""

    def __init__(
        self,
        manifest: Manifest,
        version: str,
        limits: Limits,
        vocab_size: int | None = None,
        tokenize: Callable[[list[str]], Rows] | None = None,
    ) -> None:
        """Build the codec of a bundle.

        Args:
            manifest: of the bundle.
            version: of the model.
            limits: of its requests.
            vocab_size: number of tokens, for a model of texts.
            tokenize: from texts to rows of tokens, where a request may send texts (BYTES) in place of tokens.
        """
        self._input, self._outputs = manifest.inputs[0], manifest.outputs
        schema, output_schema = manifest.input_schema, manifest.output_schema
        self._max_sequence_length = max_sequence_length(schema) or 0
        self._tokenize, self._check_values = tokenize, build_input_check(self._input.name, schema, vocab_size)
        self._name, self._version = manifest.name, version
        self._max_rows, self._max_decoded_bytes = limits.max_rows, limits.max_decoded_bytes
        self._output_sizes = OutputSizes(self._outputs, limits.max_decoded_bytes)
        self._accepted_shapes: set[tuple[int, ...]] = set()
        self._labels = output_schema.labels if isinstance(output_schema, ClassOutput) else ()
        # Missing values and a series' padding are NaN; JSON cannot write it, bytes can.
        self._allow_nan = isinstance(schema, SeriesInput) or (isinstance(schema, TableInput) and schema.allow_missing)
        outputs = list(enumerate(self._outputs))
        self._output_indexes = {spec.name: index for index, spec in outputs}
        self._json_outputs = tuple(RequestedOutput(index, spec.name, spec.datatype) for index, spec in outputs)
        self._binary_outputs = tuple(
            RequestedOutput(index, spec.name, spec.datatype, binary=True) for index, spec in outputs
        )

    def decode_request(self, body: bytes, header_length: int | None = None) -> InferRequest:
        """Decode a request.

        Args:
            body: JSON, and behind it the input's bytes if its parameters say so.
            header_length: bytes of the JSON part; None where it is the entire body.

        Raises:
            ClientError: one of many; see deployments.errors.
        """
        try:
            request = _REQUEST_DECODER.decode(body if header_length is None else memoryview(body)[:header_length])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            reason = describe_json_error(error, body)
            raise MalformedBody(
                f"the body is not an inference request: {reason}{_list_known_parameters(reason)}"
            ) from None
        if len(request.inputs) != 1 or request.inputs[0].name != self._input.name:
            names = ", ".join(repr(tensor.name) for tensor in request.inputs) or "none"
            raise UnknownTensor(f"inputs {names}; this model takes one, {self._input.name!r}")
        parameters = request.parameters
        is_binary = parameters is not None and parameters.binary_data_output
        outputs = self._binary_outputs if is_binary else self._json_outputs
        if request.outputs:
            outputs = self._select_outputs(request.outputs, is_binary)
        rows = self._decode_input(request.inputs[0], body, header_length)
        self._output_sizes.check(rows, outputs)
        if parameters is None:
            return InferRequest(rows, outputs, request.id)
        timeout_s = parameters.timeout / 1e6 if parameters.timeout else None
        priority = BATCH if parameters.priority > 1 else INTERACTIVE
        return InferRequest(rows, outputs, request.id, timeout_s, priority)

    def encode_response(self, outputs: Outputs, request: InferRequest) -> InferResponse:
        """Encode the net's outputs, each of shape (B, ...)."""
        response: dict[str, Any] = {"model_name": self._name, "model_version": self._version}
        if request.id is not None:
            response["id"] = request.id
        parts: list[binary.Buffer] = []
        response["outputs"] = [self._encode_output(outputs[output.index], output, parts) for output in request.outputs]
        header = _ENCODER.encode(response)
        return binary.join_parts(header, parts) if parts else (header, None)

    def _select_outputs(self, outputs: list[_Output], is_binary: bool) -> tuple[RequestedOutput, ...]:
        """Return the outputs that a request names; `is_binary` holds for those that do not choose."""
        selected: dict[str, RequestedOutput] = {}
        for output in outputs:
            index = self._output_indexes.get(output.name)
            if index is None:
                names = ", ".join(map(repr, self._output_indexes))
                raise UnknownTensor(f"no output {output.name!r}; this model has {names}")
            if output.name in selected:
                raise UnknownTensor(f"output {output.name!r} is requested twice; name it once")
            parameters = output.parameters or OutputParameters()
            top_k = parameters.classification or 0
            if top_k and not self._labels:
                raise UnknownParameter(
                    f"classification of output {output.name!r}: this model has no classes; leave it out"
                )
            selected[output.name] = RequestedOutput(
                index,
                output.name,
                self._outputs[index].datatype,
                is_binary if parameters.binary_data is None else parameters.binary_data,
                min(top_k, len(self._labels)),
            )
        return tuple(selected.values())

    def _encode_output(self, y: Array, output: RequestedOutput, parts: list[binary.Buffer]) -> dict[str, Any]:
        """Return one output's JSON; its bytes, if it is binary, are appended to `parts`."""
        if output.top_k:
            return self._encode_top_k(y, output, parts)
        tensor: dict[str, Any] = {"name": output.name, "shape": y.shape, "datatype": output.datatype}
        if output.binary:
            parts.append(binary.encode_tensor(y, output.datatype))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = values = y.ravel().tolist()
            # The norm is cheap, and finite where all numbers are, unless they are near the largest.
            if y.dtype.kind == "f" and not math.isfinite(math.hypot(*values)) and not np.isfinite(y).all():
                raise InferenceFailed(
                    f"output {output.name!r} is not finite for these rows, and JSON has no such number; send values in "
                    "the range of the training data, or ask for it with binary_data"
                )
        return tensor

    def _encode_top_k(self, y_BC: Array, output: RequestedOutput, parts: list[binary.Buffer]) -> dict[str, Any]:
        """Encode the best classes of each row as texts "value:index:label", as Triton's classification extension."""
        best_BK = (-y_BC).argsort(axis=1, kind="stable")[:, : output.top_k]
        texts = [
            f"{value:f}:{index}:{self._labels[index]}"
            for value, index in zip(np.take_along_axis(y_BC, best_BK, 1).flat, best_BK.flat, strict=True)
        ]
        tensor = {"name": output.name, "shape": best_BK.shape, "datatype": BYTES}
        if not output.binary:
            return tensor | {"data": texts}
        parts.append(binary.encode_texts([text.encode() for text in texts]))
        return tensor | {"parameters": {"binary_data_size": len(parts[-1])}}

    def _decode_input(self, tensor: _Input, body: bytes, header_length: int | None) -> Rows:
        """Decode the input to the net's rows; every limit is checked before its values are read."""
        spec = self._input
        data = _binary_data(tensor, body, header_length)
        shape = tuple(tensor.shape)
        if tensor.datatype == BYTES and self._tokenize is not None:
            return self._tokenize(self._decode_texts(tensor, shape, data))
        if tensor.datatype != spec.datatype:
            texts = "" if self._tokenize is None else ", or texts as BYTES"
            raise InvalidType(f"input {spec.name!r} is {tensor.datatype}; this model takes {spec.datatype}{texts}")
        if shape not in self._accepted_shapes:
            self._check_shape(shape)
        if data is None:
            check_json_size(tensor.data, self._max_decoded_bytes)
            x = parse_json_array(tensor.data, spec.datatype, shape)
        else:
            x = binary.decode_tensor(data, spec.datatype, shape)
            check_finite(x, spec.datatype, allow_nan=self._allow_nan)
        if self._check_values is not None:
            self._check_values(x)
        return x

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Check a shape, once: callers send few."""
        spec = self._input
        if len(shape) != len(spec.shape) or any(
            size not in (length, -1) for length, size in zip(shape, spec.shape, strict=True)
        ):
            raise InvalidShape(f"input {spec.name!r} has shape {list(shape)}; this model takes {list(spec.shape)}")
        self._check_row_count(shape[0])
        check_tensor_size(shape, numpy_dtype(spec.datatype).itemsize, self._max_decoded_bytes)
        if len(shape) > 1 and spec.shape[1] < 0 and not 1 <= shape[1] <= self._max_sequence_length:
            raise InvalidShape(
                f"input {spec.name!r} has sequence length {shape[1]}; this model takes 1 to {self._max_sequence_length}"
            )
        if len(self._accepted_shapes) < MAX_ACCEPTED_SHAPES:
            self._accepted_shapes.add(shape)

    def _decode_texts(self, tensor: _Input, shape: tuple[int, ...], data: memoryview | None) -> list[str]:
        if shape not in {shape[:1], (*shape[:1], 1)} or not shape:
            raise InvalidShape(f"input {tensor.name!r} has shape {list(shape)}; texts have shape [-1] or [-1, 1]")
        self._check_row_count(shape[0])
        if data is not None:
            return binary.decode_texts(data, shape[0])
        try:
            texts = _TEXTS_DECODER.decode(tensor.data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as flat_error:
            try:
                texts = [text for (text,) in _NESTED_TEXTS_DECODER.decode(tensor.data)]
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                raise InvalidType(f"data is not a list of texts: {flat_error}") from None
        if len(texts) != shape[0]:
            raise InvalidShape(f"data has {len(texts)} texts; its shape {list(shape)} needs {shape[0]}")
        return texts

    def _check_row_count(self, rows: int) -> None:
        if rows < 1:
            raise EmptyRequest(f"input {self._input.name!r} has {rows} rows; send at least one")
        if rows > self._max_rows:
            raise PayloadTooLarge(f"the request has {rows} rows; the limit is {self._max_rows}; send several requests")


def _binary_data(tensor: _Input, body: bytes, header_length: int | None) -> memoryview | None:
    """Return the input's bytes; None where its values are in the JSON.

    Raises:
        MalformedBody: it has no values, or twice, or other bytes than those that follow.
    """
    size = None if tensor.parameters is None else tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is _NO_DATA):
        which = "neither data nor" if size is None else "both data and"
        raise MalformedBody(f"input {tensor.name!r} has {which} binary_data_size; send one of them")
    if size is not None and header_length is None:
        raise MalformedBody(
            f"input {tensor.name!r} has binary_data_size {size}, but the request has no header "
            "Inference-Header-Content-Length; send the JSON part's number of bytes in it"
        )
    following = 0 if header_length is None else len(body) - header_length
    if (size or 0) != following:
        raise MalformedBody(f"{following} bytes follow the JSON part; binary_data_size is {size or 0}")
    return None if size is None else memoryview(body)[header_length:]


def _list_known_parameters(reason: str) -> str:
    """Return a hint with the known parameters, where `reason` is an unknown one."""
    if "unknown field" not in reason or "parameters`" not in reason:
        return ""
    parameters: type[msgspec.Struct] = Parameters
    if "$.inputs" in reason:
        parameters = InputParameters
    elif "$.outputs" in reason:
        parameters = OutputParameters
    return f"; known: {', '.join(parameters.__struct_fields__)}"


def encode_metadata(manifest: Manifest, version: str) -> bytes:
    """Encode the model's metadata."""

    def to_json(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}

    return _ENCODER.encode(
        {
            "name": manifest.name,
            "versions": [version],
            "platform": "pytorch_export",
            "inputs": [to_json(spec) for spec in manifest.inputs],
            "outputs": [to_json(spec) for spec in manifest.outputs],
        }
    )
