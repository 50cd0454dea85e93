"""`predict` bodies, in the task's JSON form: {"inputs": [one item per row], ...}; an image may also be the body itself.

Request walk: deployments.models.served_model
    -> [codec.py] -> inputs.py -> deployments.models.batching -> [codec.py] -> outputs.py
"""

from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from deployments.errors import EmptyRequest, InvalidType, PayloadTooLarge
from deployments.protocols.arrays import Outputs, Rows
from deployments.protocols.decoded_size import OutputSizes, check_json_size, check_tensor_size
from deployments.protocols.predict.images import SERVED_MEDIA_TYPES
from deployments.protocols.predict.inputs import InputPreprocessor
from deployments.protocols.predict.outputs import format_predictions
from deployments.protocols.predict.requests import (
    OPTION_BOUNDS,
    REQUEST_TYPES,
    TextRequest,
    parse_json_request,
    parse_media_type,
)
from deployments.settings import Limits
from training.bundle.manifest import Manifest
from training.data.tokenizer import Tokenizer
from training.schema import ImageInput

# Of a pixel of a generated image, before it is encoded as a PNG file.
FLOAT_BYTES = 4

_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True)
class PredictRequest:
    """A decoded request.

    Attributes:
        rows: of the net's input; None where the request has none.
        row_contexts: for each row, what its prediction needs besides the net's output; see InputPreprocessor.
        options: the request's own; one of requests.REQUEST_TYPES.
    """

    rows: Rows | None
    row_contexts: list[Any]
    options: Any


def encode_json(value: dict[str, Any]) -> bytes:
    """Encode a JSON object."""
    return _ENCODER.encode(value)


class PredictCodec:
    """Decodes requests and encodes responses of one model version."""

    def __init__(self, manifest: Manifest, version: str, limits: Limits, tokenizer: Tokenizer | None = None) -> None:
        self._manifest, self._version, self._limits = manifest, version, limits
        self._preprocessor = InputPreprocessor(manifest, limits, tokenizer)
        self._request_type = REQUEST_TYPES[manifest.output_schema.kind]
        self._accepts_images = isinstance(manifest.input_schema, ImageInput)
        self._output_sizes = OutputSizes(manifest.outputs, limits.max_decoded_bytes)

    def decode_request(self, body: bytes, content_type: str, *, inline: bool = False) -> PredictRequest:
        """Decode a request; `inline` where it is done on the event loop.

        Raises:
            ClientError: one of many; see deployments.errors.
            TooLargeInline: its pixels are too many for the event loop.
        """
        media_type = parse_media_type(content_type)
        if self._accepts_images and media_type in SERVED_MEDIA_TYPES:
            rows, row_contexts = self._preprocessor.preprocess_image(body, inline=inline)
            return PredictRequest(rows, row_contexts, self._request_type([]))
        check_json_size(body, self._limits.max_decoded_bytes)
        options = parse_json_request(body, media_type, self._request_type, self._accepts_images)
        _check_options(options)
        if not options.inputs:
            # An image generator samples without inputs.
            if not getattr(options, "samples", 0):
                raise EmptyRequest("inputs is empty; send at least one row")
            self._check_samples(options.samples)
            return PredictRequest(None, [], options)
        if len(options.inputs) > self._limits.max_rows:
            raise PayloadTooLarge(
                f"the request has {len(options.inputs)} rows; the limit is {self._limits.max_rows}; "
                "send several requests"
            )
        if isinstance(options, TextRequest):
            self._check_generated_tokens(options)
        rows, row_contexts = self._preprocessor.preprocess_items(options.inputs, inline=inline)
        if not isinstance(options, TextRequest):
            # A generator's passes are as long as its tokens are many, which are bounded.
            self._output_sizes.check(rows)
        return PredictRequest(rows, row_contexts, options)

    def _check_samples(self, samples: int) -> None:
        """Raise PayloadTooLarge for more pixels than a request may have decoded, or than fit into its memory."""
        schema, limit = self._manifest.input_schema, self._limits.max_image_pixels
        assert isinstance(schema, ImageInput)
        pixels = samples * schema.width * schema.height
        if pixels > limit:
            raise PayloadTooLarge(
                f"{samples} samples of {schema.width}x{schema.height} are {pixels} pixels; the limit is {limit}; ask "
                "for fewer samples"
            )
        shape = (samples, schema.channels, schema.height, schema.width)
        check_tensor_size(shape, FLOAT_BYTES, self._limits.max_decoded_bytes)

    def _check_generated_tokens(self, options: TextRequest) -> None:
        rows, limit = len(options.inputs), self._limits.max_generated_tokens
        if rows * options.max_tokens > limit:
            raise PayloadTooLarge(
                f"{rows} rows of max_tokens {options.max_tokens} are {rows * options.max_tokens} tokens; the limit is "
                f"{limit}; send several requests, or ask for fewer tokens"
            )

    def encode_response(self, outputs: Outputs, request: PredictRequest) -> bytes:
        """Encode the net's outputs."""
        tensors = tuple(torch.from_numpy(y) for y in outputs)
        return self.encode_predictions(
            format_predictions(self._manifest, tensors, request.row_contexts, request.options)
        )

    def encode_predictions(self, predictions: list[dict[str, Any]]) -> bytes:
        """Encode a response of predictions."""
        return encode_json({"model": self._manifest.name, "version": self._version, "predictions": predictions})


def _check_options(options: Any) -> None:
    for name, (minimum, maximum) in OPTION_BOUNDS.items():
        value = getattr(options, name, None)
        if value is not None and not minimum <= value <= maximum:
            raise InvalidType(f"{name} is {value}; make it {minimum} to {maximum}")
