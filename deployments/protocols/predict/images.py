"""Images of a request, decoded without trust: the header is checked before a pixel is decoded."""
# Shapes: K channels, H height, W width.

import base64
import binascii
import io

from PIL import Image

from deployments.errors import InvalidImage, PayloadTooLarge
from deployments.protocols.arrays import Array
from training.data import images
from training.data.image_types import SERVED_IMAGE_TYPES
from training.schema import ImageInput

SERVED_MEDIA_TYPES = tuple(image_type.media_type for image_type in SERVED_IMAGE_TYPES)
SERVED_FORMATS = tuple(image_type.pillow_format for image_type in SERVED_IMAGE_TYPES)
"""Pillow's names of them."""

# Our own limit comes first and responds with 413; Pillow's would only warn.
Image.MAX_IMAGE_PIXELS = None


class PixelBudget:
    """The pixels that one request may still decode: many small files can hold as many as one large one."""

    def __init__(self, limit: int) -> None:
        self._limit, self._remaining = limit, limit

    def spend(self, width: int, height: int) -> None:
        """Spend an image's pixels; raises PayloadTooLarge where fewer remain."""
        self._remaining -= width * height
        if self._remaining < 0:
            raise PayloadTooLarge(
                f"an image of {width}x{height} pixels; the limit is {self._limit} pixels in one request"
            )


def decode_image(content: bytes, schema: ImageInput, budget: PixelBudget) -> tuple[Array, tuple[int, int]]:
    """Decode an image file.

    Returns:
        uint8 of shape (K, H, W), oriented and resized to the schema; and the image's own width and height, oriented.

    Raises:
        InvalidImage: no PNG, JPEG or WebP file, or a damaged one.
        PayloadTooLarge: more pixels than the request may still decode.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=SERVED_FORMATS)
    except Exception:  # Pillow's parsers raise anything for a damaged header
        raise InvalidImage(f"the {len(content)} bytes are not a {', '.join(SERVED_FORMATS)} image") from None
    budget.spend(image.width, image.height)
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
