"""The task's own words: a request is {"inputs": [one item per row], ...}; for image models also a picture's own bytes.

Request walk: ingress.py -> [predict.py: rows.py] -> batching.py -> [predict.py: answers.py]
"""

from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from deployments.errors import EmptyRequest, InvalidType, MalformedBody, PayloadTooLarge, UnsupportedMediaType
from deployments.protocols.arrays import Outputs, Rows
from deployments.protocols.predict.inputs import InputReader
from deployments.protocols.predict.outputs import BOUNDS, REQUESTS, format_predictions
from deployments.settings import Limits
from training.bundle.manifest import Manifest
from training.data.tokenizer import Tokenizer
from training.schema import ImageInput

IMAGE_TYPES = {"image/png", "image/jpeg", "image/webp"}

_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True)
class PredictRequest:
    """A request that was read.

    Attributes:
        x: rows of the net's input; None where the request has none.
        known: what the answer to each row must know of it.
        request: what else was chosen; one of answers.REQUESTS.
    """

    rows: Rows | None
    row_contexts: list[Any]
    options: Any


def encode_json(value: dict[str, Any]) -> bytes:
    """Write a request body."""
    return _ENCODER.encode(value)


def parse_json_request(body: bytes, kind: str, form: Any, takes_pictures: bool) -> Any:
    """Read a JSON body into one of the forms that a request has; `kind` is its content type, bare and in lower case.

    Raises:
        WrongContentType: it is not JSON.
        MalformedBody: it is not of the form.
    """
    if kind not in ("application/json", ""):
        also = ", ".join(sorted(IMAGE_TYPES)) if takes_pictures else "nothing else"
        raise UnsupportedMediaType(f"content type {kind!r}; send application/json or {also}")
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedBody(f'the body is not {{"inputs": [...]}}: {said}') from None


class PredictCodec:
    """Reads and writes `predict` bodies for one model version."""

    def __init__(self, manifest: Manifest, version: str, limits: Limits, tokeniser: Tokenizer | None = None) -> None:
        self._manifest, self._version, self._limits = manifest, version, limits
        self._reader = InputReader(manifest, limits, tokeniser)
        self._form = REQUESTS[manifest.output_schema.kind]
        self._needs_rows = manifest.output_schema.kind != "image"

    def decode(self, body: bytes, content_type: str) -> PredictRequest:
        """Read a request.

        Raises:
            ClientError: one of many; see deployments.errors.
        """
        takes_pictures = isinstance(self._manifest.input_schema, ImageInput)
        kind = content_type.partition(";")[0].strip().lower()
        if kind in IMAGE_TYPES and takes_pictures:
            x, known = self._reader.read_image(body)
            return PredictRequest(x, known, self._form([]))
        request = parse_json_request(body, kind, self._form, takes_pictures)
        for name, (least, most) in BOUNDS.items():
            value = getattr(request, name, None)
            if value is not None and not least <= value <= most:
                raise InvalidType(f"{name} is {value}; make it {least} to {most}")
        if not request.inputs:
            if self._needs_rows or not request.samples:
                raise EmptyRequest("inputs is empty; send one row at least")
            return PredictRequest(None, [], request)
        if len(request.inputs) > self._limits.max_rows:
            raise PayloadTooLarge(
                f"{len(request.inputs)} rows; the limit is {self._limits.max_rows}; send several requests"
            )
        x, known = self._reader.read_items(request.inputs)
        return PredictRequest(x, known, request)

    def encode(self, outputs: Outputs, asked: PredictRequest) -> bytes:
        """Write an answer from what the net gives."""
        tensors = tuple(torch.from_numpy(y) for y in outputs)
        return self.encode_predictions(format_predictions(self._manifest, tensors, asked.row_contexts, asked.options))

    def encode_predictions(self, answers: list[dict[str, Any]], **more: Any) -> bytes:
        """Write an answer from its predictions."""
        body = {"model": self._manifest.name, "version": self._version, "predictions": answers}
        return _ENCODER.encode(body | more)
