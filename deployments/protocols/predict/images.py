"""Images of a request, decoded without trust: the header is checked before a pixel is decoded.

Decoding cannot be canceled, so it has a few threads of its own: it can wait for itself, and nothing else waits for it.
"""
# Shapes: K channels, H height, W width.

import asyncio
import base64
import binascii
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from PIL import Image

from deployments.errors import InvalidImage, PayloadTooLarge
from deployments.protocols.arrays import Array
from training.data import images
from training.data.image_parts import TooManyParts
from training.data.image_types import SERVED_IMAGE_TYPES
from training.schema import ImageInput

SERVED_MEDIA_TYPES = tuple(image_type.media_type for image_type in SERVED_IMAGE_TYPES)
SERVED_FORMATS = tuple(image_type.pillow_format for image_type in SERVED_IMAGE_TYPES)
"""Pillow's names of them."""

IMAGE_THREADS = 4
"""Threads of one replica that decode and encode images."""
MAX_INLINE_PIXELS = 2**16
"""About a millisecond's work: a request of more is decoded in one of those threads."""

Result = TypeVar("Result")

# Our own limit comes first and responds with 413; Pillow's would only warn.
Image.MAX_IMAGE_PIXELS = None


class TooLargeInline(Exception):
    """A request of more than MAX_INLINE_PIXELS, however small its body is; what exceeds them is not decoded."""


class PixelBudget:
    """The pixels that one request may still decode: many small files can hold as many as one large one."""

    def __init__(self, limit: int, *, inline: bool = False) -> None:
        """Start with all pixels of a request; `inline` where it is decoded on the event loop."""
        self._limit, self._spent = limit, 0
        self._inline_remaining: float = MAX_INLINE_PIXELS if inline else math.inf

    def spend(self, width: int, height: int, resized: int = 0) -> None:
        """Spend an image's pixels; on the event loop, those that it is resized to where they are more.

        Raises:
            PayloadTooLarge: fewer remain.
            TooLargeInline: they do not, but are too many for the event loop.
        """
        self._spent += width * height
        if self._spent > self._limit:
            raise PayloadTooLarge(
                f"an image of {width}x{height} pixels; the limit is {self._limit} pixels in one request"
            )
        self._inline_remaining -= max(width * height, resized)
        if self._inline_remaining < 0:
            raise TooLargeInline


async def run_in_image_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that decodes or encodes images, in one of IMAGE_THREADS; canceled where it has not begun."""
    return await asyncio.get_running_loop().run_in_executor(_image_threads(), function, *arguments)


# Made when it is first used, since Ray Serve pickles what a deployment's class refers to.
@cache
def _image_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(IMAGE_THREADS, "image")


def decode_image(content: bytes, schema: ImageInput, budget: PixelBudget) -> tuple[Array, tuple[int, int]]:
    """Decode an image file.

    Returns:
        uint8 of shape (K, H, W), oriented and resized to the schema; and the image's own width and height, oriented.

    Raises:
        InvalidImage: no PNG, JPEG or WebP file, or a damaged one.
        PayloadTooLarge: more pixels than the request may still decode.
        TooLargeInline: more than the event loop may.
    """
    try:
        image = images.open_image(content, SERVED_FORMATS)
    except TooManyParts as error:
        raise InvalidImage(f"the image is refused: {error}") from None
    except Exception:  # Pillow's parsers raise anything for a damaged header
        raise InvalidImage(f"the {len(content)} bytes are not a {', '.join(SERVED_FORMATS)} image") from None
    budget.spend(image.width, image.height, schema.width * schema.height)
    try:
        image = images.orient_and_convert(image, schema.mode)
    except images.UnsupportedPixels as error:
        raise InvalidImage(f"the image cannot be read: {error}") from None
    except Exception:
        raise InvalidImage("the image is damaged: its pixels cannot be decoded") from None
    return images.resize_to_pixels(image, schema.height, schema.width), image.size


def decode_base64_image(text: str, schema: ImageInput, budget: PixelBudget) -> tuple[Array, tuple[int, int]]:
    """Decode an image file in base64, with or without a `data:` prefix; see decode_image."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage("the image is not valid base64; send a file's bytes in base64") from None
    return decode_image(content, schema, budget)
