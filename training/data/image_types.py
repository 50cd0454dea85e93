"""Image types: one table of media types, Pillow formats, file suffixes and signatures.

Imports nothing heavy, so that clients, the command line and file readers can share it.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ImageType:
    """One image file format.

    Attributes:
        media_type: as in a Content-Type header (IANA's registry; Netpbm's are unregistered).
        pillow_format: as `PIL.Image.open(formats=...)` and `Image.format` have it.
        suffixes: of file names, lower case; the usual one first.
        signature: matches the first bytes of a file.
        is_served: whether a request may send it; the others are read from training files only.
    """

    media_type: str
    pillow_format: str
    suffixes: tuple[str, ...]
    signature: re.Pattern[bytes]
    is_served: bool = False


IMAGE_TYPES = (
    # Four of PNG's eight bytes: a truncated file is still sent as what it was, and refused by the server by name.
    ImageType("image/png", "PNG", (".png",), re.compile(rb"\x89PNG"), is_served=True),
    ImageType("image/jpeg", "JPEG", (".jpg", ".jpeg"), re.compile(rb"\xff\xd8\xff"), is_served=True),
    ImageType("image/webp", "WEBP", (".webp",), re.compile(rb"RIFF.{4}WEBP", re.DOTALL), is_served=True),
    ImageType("image/bmp", "BMP", (".bmp",), re.compile(rb"BM")),
    ImageType("image/gif", "GIF", (".gif",), re.compile(rb"GIF8[79]a")),
    ImageType("image/tiff", "TIFF", (".tif", ".tiff"), re.compile(rb"II[*+]\x00|MM\x00[*+]")),
    ImageType("image/x-portable-pixmap", "PPM", (".ppm",), re.compile(rb"P[36]\s")),
    ImageType("image/x-portable-graymap", "PPM", (".pgm",), re.compile(rb"P[25]\s")),
)
SERVED_IMAGE_TYPES = tuple(image_type for image_type in IMAGE_TYPES if image_type.is_served)
IMAGE_SUFFIXES = tuple(suffix for image_type in IMAGE_TYPES for suffix in image_type.suffixes)


def by_media_type(media_type: str) -> ImageType | None:
    """Look up a media type, without parameters, in any case."""
    return next((t for t in IMAGE_TYPES if t.media_type == media_type.lower()), None)


def by_suffix(suffix: str) -> ImageType | None:
    """Look up a file name's suffix, with its dot, in any case."""
    return next((t for t in IMAGE_TYPES if suffix.lower() in t.suffixes), None)


def detect(content: bytes) -> ImageType | None:
    """Recognize a file by its first bytes; 12 are enough."""
    return next((t for t in IMAGE_TYPES if t.signature.match(content)), None)
