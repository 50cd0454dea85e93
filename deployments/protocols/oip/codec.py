"""The Open Inference Protocol v2: tensors as JSON, or as raw bytes after it (`binary`), as gRPC's come, too.

https://github.com/kserve/open-inference-protocol, "Inference Request JSON Object" and its answer, with the extensions
that Triton made for binary tensor data and classification.
"""
# Shapes: B rows of one request, C classes.

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np

from deployments.errors import (
    EmptyRequest,
    InvalidShape,
    InvalidType,
    MalformedBody,
    PayloadTooLarge,
    UnknownParameter,
    UnknownTensor,
)
from deployments.protocols.arrays import Array, Outputs, Rows, parse_json_array
from deployments.protocols.oip import binary
from training.bundle.datatypes import Datatype
from training.bundle.manifest import Manifest, TensorSpec
from training.schema import ClassOutput, SeriesInput, TableInput

EXTENSIONS = ("binary_tensor_data", "classification")
"""What the server's metadata lists."""

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_NO_DATA = msgspec.Raw()


class InputParameters(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said of one input."""

    binary_data_size: _Size | None = None


class OutputParameters(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said of one output."""

    binary_data: bool | None = None
    classification: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said of a request."""

    binary_data_output: bool = False
    # Microseconds; 0 is none, as Triton has it.
    timeout: _Size = 0
    # All requests are equal here, and no model keeps anything from one to the next: as with Triton, a model without
    # levels of priority, or without state, takes these and does nothing about them.
    priority: _Size = 0
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


_REQUEST = msgspec.json.Decoder(_Request)
_TEXTS = msgspec.json.Decoder(list[str])
_TEXTS_NESTED = msgspec.json.Decoder(list[Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]])
_ENCODER = msgspec.json.Encoder()


class RequestedOutput(msgspec.Struct, frozen=True):
    """One output of the answer: its place among the net's, whether as bytes, and as how many classes (0: as it is)."""

    index: int
    name: str
    datatype: Datatype
    binary: bool = False
    top_classes: int = 0


class InferRequest(msgspec.Struct):
    """A request that was read: B rows of the net's input, and how its answer shall be."""

    rows: Rows
    outputs: tuple[RequestedOutput, ...]
    id: str | None = None
    timeout_s: float | None = None


class OipCodec:
    """Reads and writes `infer` bodies for one model version."""

    def __init__(
        self,
        manifest: Manifest,
        version: str,
        max_rows: int,
        vocabulary: int | None = None,
        texts: Callable[[list[str]], Rows] | None = None,
    ) -> None:
        """Take a manifest.

        Args:
            manifest: of the bundle.
            version: the model's.
            max_rows: of one request.
            vocabulary: the number of tokens that there are, for text.
            texts: what makes rows of tokens of texts, where texts (BYTES) may be sent in their place.
        """
        self._input, self._outputs = manifest.inputs[0], manifest.outputs
        words, answer = manifest.input_schema, manifest.output_schema
        self._max_time_steps = int(getattr(words, "max_tokens", 0) or getattr(words, "max_time_steps", 0))
        self._vocabulary, self._texts = vocabulary, texts
        self._name, self._version, self._max_rows = manifest.name, version, max_rows
        self._labels = answer.labels if isinstance(answer, ClassOutput) else ()
        # What is missing, or fills up a series, is NaN; JSON has no word for it, bytes do.
        self._nan = isinstance(words, SeriesInput) or (isinstance(words, TableInput) and words.allow_missing)
        outputs = list(enumerate(self._outputs))
        self._places = {spec.name: place for place, spec in outputs}
        self._all_as_json = tuple(RequestedOutput(place, spec.name, spec.datatype) for place, spec in outputs)
        self._all_as_bytes = tuple(RequestedOutput(place, spec.name, spec.datatype, True) for place, spec in outputs)

    def decode(self, body: bytes, header_length: int | None = None) -> InferRequest:
        """Read a request.

        Args:
            body: JSON, and after it the input's bytes if its parameters say so.
            header_length: bytes of the JSON part; None where it is all of the body.

        Raises:
            ClientError: one of many; see deployments.errors.
        """
        try:
            request = _REQUEST.decode(body if header_length is None else memoryview(body)[:header_length])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise MalformedBody(f"the body is not an inference request: {said}{_known_parameters(said)}") from None
        if len(request.inputs) != 1 or request.inputs[0].name != self._input.name:
            sent = ", ".join(repr(i.name) for i in request.inputs) or "none"
            raise UnknownTensor(f"inputs {sent}; this model takes one, {self._input.name!r}")
        parameters = request.parameters
        outputs = self._all_as_bytes if parameters is not None and parameters.binary_data_output else self._all_as_json
        if request.outputs:
            outputs = self._requested_outputs(request.outputs, outputs[0].binary)
        asked = InferRequest(self._read_input(request.inputs[0], body, header_length), outputs, request.id)
        if parameters is not None and parameters.timeout:
            asked.timeout_s = parameters.timeout / 1e6
        return asked

    def encode(self, outputs: Outputs, asked: InferRequest) -> tuple[bytes, int | None]:
        """Write an answer from what the net gives, each of shape (B, ...).

        Returns:
            The body, and how many bytes of it are JSON where others follow.
        """
        answer: dict[str, Any] = {"model_name": self._name, "model_version": self._version}
        if asked.id is not None:
            answer["id"] = asked.id
        parts: list[bytes] = []
        answer["outputs"] = [self._encode_output(outputs[wanted.index], wanted, parts) for wanted in asked.outputs]
        said = _ENCODER.encode(answer)
        if not parts:
            return said, None
        return b"".join((said, *parts)), len(said)

    def _requested_outputs(self, asked: list[_Output], as_bytes: bool) -> tuple[RequestedOutput, ...]:
        """The outputs that a request names; those that do not say how come as the request says of all."""
        wanted: dict[str, RequestedOutput] = {}
        for output in asked:
            place = self._places.get(output.name)
            if place is None:
                names = ", ".join(map(repr, self._places))
                raise UnknownTensor(f"no output {output.name!r}; this model gives {names}")
            if output.name in wanted:
                raise UnknownTensor(f"output {output.name!r} is asked for twice; name it once")
            parameters = output.parameters or OutputParameters()
            classes = parameters.classification or 0
            if classes and not self._labels:
                raise UnknownParameter(
                    f"classification of output {output.name!r}: this model gives no classes; leave it out"
                )
            binary_ = as_bytes if parameters.binary_data is None else parameters.binary_data
            datatype = self._outputs[place].datatype
            wanted[output.name] = RequestedOutput(
                place, output.name, datatype, binary_, min(classes, len(self._labels))
            )
        return tuple(wanted.values())

    def _encode_output(self, y: Array, wanted: RequestedOutput, parts: list[bytes]) -> dict[str, Any]:
        """One output's JSON; if it goes as bytes, those are put with `parts`."""
        if wanted.top_classes:
            return self._encode_top_classes(y, wanted, parts)
        said: dict[str, Any] = {"name": wanted.name, "shape": y.shape, "datatype": wanted.datatype}
        if wanted.binary:
            parts.append(binary.write_tensor(y, wanted.datatype))
            said["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            said["data"] = y.ravel().tolist()
        return said

    def _encode_top_classes(self, y_BC: Array, wanted: RequestedOutput, parts: list[bytes]) -> dict[str, Any]:
        """The best classes of each row as texts "value:index:label", as Triton's classification extension has them."""
        best = (-y_BC).argsort(axis=1, kind="stable")[:, : wanted.top_classes]
        texts = [
            f"{value:f}:{index}:{self._labels[index]}"
            for value, index in zip(np.take_along_axis(y_BC, best, 1).flat, best.flat, strict=True)
        ]
        said = {"name": wanted.name, "shape": best.shape, "datatype": "BYTES"}
        if not wanted.binary:
            return said | {"data": texts}
        parts.append(binary.write_texts([each.encode() for each in texts]))
        return said | {"parameters": {"binary_data_size": len(parts[-1])}}

    def _read_input(self, sent: _Input, body: bytes, header_length: int | None) -> Rows:
        """The input as the net takes it, every limit checked before its values are read."""
        spec = self._input
        start = _find_data_start(sent, len(body), header_length)
        shape = tuple(sent.shape)
        if sent.datatype == "BYTES" and self._texts is not None:
            return self._texts(self._read_texts(sent, shape, body, start))
        if sent.datatype != spec.datatype:
            also = "" if self._texts is None else ", or texts as BYTES"
            raise InvalidType(f"input {spec.name!r} is {sent.datatype}; this model takes {spec.datatype}{also}")
        if len(shape) != len(spec.shape) or any(n not in (got, -1) for got, n in zip(shape, spec.shape, strict=True)):
            raise InvalidShape(f"input {spec.name!r} has shape {list(shape)}; this model takes {list(spec.shape)}")
        self._check_rows(shape[0])
        if len(shape) > 1 and spec.shape[1] < 0 and not 1 <= shape[1] <= self._max_time_steps:
            raise InvalidShape(
                f"input {spec.name!r} has {shape[1]} steps; this model takes 1 to {self._max_time_steps}"
            )
        if start is None:
            x = parse_json_array(sent.data, spec.datatype, shape)
        else:
            x = binary.read_tensor(body, start, spec.datatype, shape, nan=self._nan)
        if self._vocabulary is not None and (x.min() < 0 or x.max() >= self._vocabulary):
            raise InvalidType(f"input {spec.name!r} has a token that is not 0 to {self._vocabulary - 1}")
        return x

    def _read_texts(self, sent: _Input, shape: tuple[int, ...], body: bytes, start: int | None) -> list[str]:
        if shape not in {shape[:1], (*shape[:1], 1)} or not shape:
            raise InvalidShape(f"input {sent.name!r} has shape {list(shape)}; texts are of shape [-1] or [-1, 1]")
        self._check_rows(shape[0])
        if start is not None:
            return binary.read_texts(body, start, shape[0])
        try:
            texts = _TEXTS.decode(sent.data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as flat:
            try:
                texts = [each for (each,) in _TEXTS_NESTED.decode(sent.data)]
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                raise InvalidType(f"data is no list of texts: {flat}") from None
        if len(texts) != shape[0]:
            raise InvalidShape(f"data has {len(texts)} texts, its shape {list(shape)} wants another number")
        return texts

    def _check_rows(self, rows: int) -> None:
        if rows < 1:
            raise EmptyRequest(f"input {self._input.name!r} has {rows} rows; send one at least")
        if rows > self._max_rows:
            raise PayloadTooLarge(f"{rows} rows in one request; the limit is {self._max_rows}; send several requests")


def _find_data_start(sent: _Input, body_size: int, header_length: int | None) -> int | None:
    """Where the input's bytes begin; None where its values are in the JSON.

    Raises:
        MalformedBody: it has no values, or twice, or not the bytes that follow.
    """
    size = None if sent.parameters is None else sent.parameters.binary_data_size
    if (size is None) == (sent.data is _NO_DATA):
        how = "neither data nor" if size is None else "both data and"
        raise MalformedBody(f"input {sent.name!r} has {how} binary_data_size; send one of them")
    if size is not None and header_length is None:
        raise MalformedBody(
            f"input {sent.name!r} has binary_data_size {size}, but the request has no Inference-Header-Content-Length; "
            "send the number of bytes of its JSON part in that header"
        )
    left = body_size - (body_size if header_length is None else header_length)
    if (size or 0) != left:
        raise MalformedBody(f"{left} bytes follow the JSON part; binary_data_size says {size or 0}")
    return header_length if size is not None else None


def _known_parameters(said: str) -> str:
    """What there is, where a parameter was not known."""
    if "unknown field" not in said or "parameters`" not in said:
        return ""
    kind = InputParameters if "$.inputs" in said else OutputParameters if "$.outputs" in said else Parameters
    return f"; known here: {', '.join(kind.__struct_fields__)}"


def encode_metadata(manifest: Manifest, version: str) -> bytes:
    """The model's metadata, as the protocol has it."""

    def tensor(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}

    return _ENCODER.encode(
        {
            "name": manifest.name,
            "versions": [version],
            "platform": "pytorch_export",
            "inputs": [tensor(spec) for spec in manifest.inputs],
            "outputs": [tensor(spec) for spec in manifest.outputs],
        }
    )
