"""Pictures to pixels, trusting nothing: the header is judged before a pixel is decoded."""
# Shapes: K channels, H height, W width.

import base64
import binascii
import io

from PIL import Image

from deployments.errors import InvalidImage, PayloadTooLarge
from deployments.protocols.arrays import Array
from training.data import images
from training.schema import ImageInput

FORMATS = ("PNG", "JPEG", "WEBP")

# Our own limit comes first and answers 413; Pillow's would only warn.
Image.MAX_IMAGE_PIXELS = None


class PixelBudget:
    """The pixels that one request may still have decoded: many small files can hold as many as one large one."""

    def __init__(self, most: int) -> None:
        self._most, self._left = most, most

    def spend(self, width: int, height: int) -> None:
        """Spend a picture's pixels; raises TooLarge where not so many are left."""
        self._left -= width * height
        if self._left < 0:
            raise PayloadTooLarge(
                f"a picture of {width}x{height} pixels; the limit is {self._most} pixels in one request"
            )


def decode_image(raw: bytes, words: ImageInput, budget: PixelBudget) -> tuple[Array, tuple[int, int]]:
    """Decode a picture to uint8 of shape (K, H, W), turned and resized to what the model takes; and its own size.

    Raises:
        NotAnImage: no PNG, JPEG or WebP, or a broken one.
        TooLarge: more pixels than the request has left.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(raw), formats=FORMATS)
    except Exception:  # Pillow's readers raise whatever a broken header leads them to
        raise InvalidImage(f"these {len(raw)} bytes are no {', '.join(FORMATS)} picture") from None
    budget.spend(image.width, image.height)
    try:
        image = images.orient_and_convert(image, words.mode)
    except Exception:
        raise InvalidImage("the picture is broken: its pixels cannot be decoded") from None
    return images.resize_to_pixels(image, words.height, words.width), image.size


def decode_base64_image(text: str, words: ImageInput, budget: PixelBudget) -> tuple[Array, tuple[int, int]]:
    """Decode a picture in base64, with or without a `data:` prefix; see from_bytes."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage("a text that is no base64; send a picture's bytes in base64") from None
    return decode_image(raw, words, budget)
