"""Crops: an image for each box that a detector found, within a budget of the whole request.

Request walk: sequence.py -> adapters.py -> [crops.py: in a thread]
Many large boxes of one image have many times its pixels, so they are counted before the first is cropped.
"""

import base64
import io
import threading
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from deployments.errors import PayloadTooLarge
from deployments.protocols.decoded_size import check_decoded_size
from deployments.protocols.predict.images import SERVED_FORMATS
from deployments.settings import Limits
from training.data import images
from training.schema import ImageInput

# What a crop takes besides its pixels: a PNG file's header, and the objects that hold it.
CROP_OVERHEAD_BYTES = 512


class Rectangle(NamedTuple):
    """A part of an image, in its pixels; as Pillow has it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def pixels(self) -> int:
        """Number of its pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


class CropBudget:
    """What may still be cropped for one request, whose rows are cropped in several threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._pixels, self._bytes, self._lock = limits, 0, 0, threading.Lock()

    def spend(self, rectangles: list[Rectangle], channels: int) -> None:
        """Spend the crops of one row.

        Raises:
            PayloadTooLarge: the request's crops have more pixels than max_image_pixels, or bytes than
                max_decoded_bytes.
        """
        pixels = sum(rectangle.pixels for rectangle in rectangles)
        with self._lock:
            self._pixels += pixels
            self._bytes += pixels * channels + CROP_OVERHEAD_BYTES * len(rectangles)
            limit = self._limits.max_image_pixels
            if self._pixels > limit:
                raise PayloadTooLarge(
                    f"the boxes that were found have {self._pixels} pixels; the limit is {limit} pixels in one "
                    "request; send fewer images, or smaller ones"
                )
            check_decoded_size(self._bytes, self._limits.max_decoded_bytes, "the boxes that were found")


def crop_boxes(row: Any, boxes: list[Any], schema: ImageInput, budget: CropBudget) -> list[str]:
    """Crop each box from an image.

    Args:
        row: the image as it was sent, in base64 or as lists of pixels.
        boxes: in its pixels; they are clipped to the image, and at least one pixel is kept.
        schema: of the node that found the boxes.
        budget: of the request.

    Returns:
        PNG files in base64.

    Raises:
        PayloadTooLarge: the crops are too large; see CropBudget.
    """
    if not boxes:
        return []
    image = _decode_image(row, schema)
    rectangles = [_clip(box["box"], image) for box in boxes]
    budget.spend(rectangles, schema.channels)
    crops = []
    for rectangle in rectangles:
        out = io.BytesIO()
        image.crop(rectangle).save(out, "PNG")
        crops.append(base64.b64encode(out.getvalue()).decode())
    return crops


def _clip(box: list[float], image: Image.Image) -> Rectangle:
    left = min(max(int(box[0]), 0), image.width - 1)
    top = min(max(int(box[1]), 0), image.height - 1)
    right = min(max(round(box[2]), left + 1), image.width)
    bottom = min(max(round(box[3]), top + 1), image.height)
    return Rectangle(left, top, right, bottom)


def _decode_image(row: Any, schema: ImageInput) -> Image.Image:
    """Decode an image without limits of its own: the node before has already decoded it within its limits."""
    if isinstance(row, str):
        content = base64.b64decode(row.partition(",")[2] if row.startswith("data:") else row)
        return images.orient_and_convert(images.open_image(content, SERVED_FORMATS), schema.mode)
    pixels = np.array(row, dtype=np.uint8).reshape(schema.channels, schema.height, schema.width)
    return Image.fromarray(pixels[0] if schema.mode == "L" else pixels.transpose(1, 2, 0))
