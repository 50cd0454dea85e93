"""Inline limits: what is decoded and encoded on the event loop, which is about a millisecond's work.

Request walk: served_model.py -> [inline_limits.py]
What is larger goes to a thread, since it would stall the event loop.
"""

import math
from dataclasses import dataclass

from training.bundle.manifest import Manifest
from training.schema import ImageInput, TextInput

MAX_INLINE_TEXT_BYTES = 2048  # and of images, whose pixels count too; see MAX_INLINE_PIXELS
MAX_INLINE_ROWS_BYTES = 4096
MAX_INLINE_JSON_TENSOR_BYTES = 2**15
MAX_INLINE_TENSOR_BYTES = 2**20
MAX_INLINE_ROWS, MAX_INLINE_ELEMENTS = 64, 8192


@dataclass(frozen=True)
class InlineLimits:
    """Of one model.

    Attributes:
        predict_bytes: of a body of `predict`.
        json_bytes: of an `infer` request whose tensors are JSON.
        binary_bytes: of one with binary tensors.
        infer_rows: rows of an `infer` request whose outputs are encoded there; 0 where that depends on their lengths.
    """

    predict_bytes: int
    json_bytes: int
    binary_bytes: int
    infer_rows: int

    @classmethod
    def of(cls, manifest: Manifest) -> "InlineLimits":
        """Make the limits of a bundle's model."""
        is_text, is_image = (isinstance(manifest.input_schema, each) for each in (TextInput, ImageInput))
        return cls(
            MAX_INLINE_TEXT_BYTES if is_text or is_image else MAX_INLINE_ROWS_BYTES,
            # Texts may come as an input's bytes, too.
            MAX_INLINE_TEXT_BYTES if is_text else MAX_INLINE_JSON_TENSOR_BYTES,
            MAX_INLINE_TEXT_BYTES if is_text else MAX_INLINE_TENSOR_BYTES,
            _count_rows(manifest),
        )

    def infer_bytes(self, header_length: int | None) -> int:
        """Of an `infer` request, whose JSON part has a length of its own where bytes follow it."""
        return self.json_bytes if header_length is None else self.binary_bytes


def _count_rows(manifest: Manifest) -> int:
    shapes = [spec.shape[1:] for spec in manifest.outputs]
    if any(size < 0 for shape in shapes for size in shape):
        return 0
    return MAX_INLINE_ELEMENTS // max(1, sum(map(math.prod, shapes)))
