"""The Open Inference Protocol v2: JSON tensors.

https://github.com/kserve/open-inference-protocol, "Inference Request JSON Object" and its answer.
"""
# Shapes: B rows of one request.

from typing import Any

import msgspec

from deployments.codec.arrays import Array, Outputs, from_json
from deployments.errors import Empty, MalformedBody, TooLarge, UnknownTensor, WrongShape, WrongType
from training.bundle import Manifest, TensorSpec


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[_Output] | None = None


_REQUEST = msgspec.json.Decoder(_Request)
_ENCODER = msgspec.json.Encoder()


class Codec:
    """Reads and writes `infer` bodies for one model version."""

    def __init__(self, manifest: Manifest, version: str, max_rows: int, vocabulary: int | None = None) -> None:
        """Take a manifest; `vocabulary` is the number of tokens there are, for text."""
        self._input, self._outputs = manifest.inputs[0], manifest.outputs
        words = manifest.words
        self._most_steps = int(getattr(words, "max_tokens", 0) or getattr(words, "max_steps", 0))
        self._vocabulary = vocabulary
        self._name, self._version, self._max_rows = manifest.name, version, max_rows

    def decode(self, body: bytes) -> tuple[Array, str | None, set[str]]:
        """Read a request.

        Returns:
            The input, shape (B, ...), the caller's id, if any, and the names of the outputs that it wants.

        Raises:
            ClientError: one of many; see deployments.errors.
        """
        try:
            request = _REQUEST.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise MalformedBody(f"the body is not an inference request: {said}") from None
        names = [spec.name for spec in self._outputs]
        for output in request.outputs or ():
            if output.name not in names:
                raise UnknownTensor(f"no output {output.name!r}; this model gives {', '.join(map(repr, names))}")
        wanted = {output.name for output in request.outputs or ()} or set(names)
        if len(request.inputs) != 1 or request.inputs[0].name != self._input.name:
            sent = ", ".join(repr(i.name) for i in request.inputs) or "none"
            raise UnknownTensor(f"inputs {sent}; this model takes one, {self._input.name!r}")
        return self._read(request.inputs[0]), request.id, wanted

    def encode(self, outputs: Outputs, request_id: str | None, wanted: set[str]) -> bytes:
        """Write an answer from what the net gives, each of shape (B, ...)."""
        answer: dict[str, Any] = {"model_name": self._name, "model_version": self._version}
        if request_id is not None:
            answer["id"] = request_id
        answer["outputs"] = [
            {
                "name": spec.name,
                "shape": list(y.shape),
                "datatype": spec.datatype,
                "data": y.ravel().tolist(),
            }
            for spec, y in zip(self._outputs, outputs, strict=True)
            if spec.name in wanted
        ]
        return _ENCODER.encode(answer)

    def _read(self, sent: _Input) -> Any:
        spec = self._input
        if sent.datatype != spec.datatype:
            raise WrongType(f"input {spec.name!r} is {sent.datatype}; this model takes {spec.datatype}")
        shape = tuple(sent.shape)
        if len(shape) != len(spec.shape) or any(n not in (got, -1) for got, n in zip(shape, spec.shape, strict=True)):
            raise WrongShape(f"input {spec.name!r} has shape {list(shape)}; this model takes {list(spec.shape)}")
        if shape[0] < 1:
            raise Empty(f"input {spec.name!r} has {shape[0]} rows; send one at least")
        if len(shape) > 1 and spec.shape[1] < 0 and not 1 <= shape[1] <= self._most_steps:
            raise WrongShape(f"input {spec.name!r} has {shape[1]} steps; this model takes 1 to {self._most_steps}")
        if shape[0] > self._max_rows:
            raise TooLarge(f"{shape[0]} rows in one request; the limit is {self._max_rows}; send several requests")
        array = from_json(sent.data, spec.datatype, shape)
        if self._vocabulary is not None and (array.min() < 0 or array.max() >= self._vocabulary):
            raise WrongType(f"input {spec.name!r} has a token that is not 0 to {self._vocabulary - 1}")
        return array


def metadata(manifest: Manifest, version: str) -> bytes:
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
