"""Image parts: scans, segments, chunks and tiles of a file, counted before Pillow decodes it.

Pixels bound a decoder's work only where each is decoded about once. A progressive JPEG decodes all of them in each
scan (1.3 MB hold 16 MP x 20,000 scans, minutes in a thread that cannot be canceled), and Pillow reads markers, chunks
and strips one by one in Python, which stops every other thread.
"""

import re

from PIL import Image

from training.errors import UserError

MAX_JPEG_SCANS = 100
"""Encoders write up to 10 for three channels and 24 for four; 100 of 16 MP take about a second."""
MAX_PARTS = 1000
"""Segments of a JPEG's header, or chunks of a PNG in addition to one for each KB."""
MAX_COLOR_PROFILES = 4
"""Of a PNG, which has one; each may inflate to a MB."""

# Shorter files cannot hold too many parts; each has a marker and a length, a PNG's also a type and a checksum.
_JPEG_PART_BYTES, _PNG_PART_BYTES = 4, 12
_START_OF_SCAN = b"\xff\xda"
# In a header, any marker; in a scan, any but escaped data and restarts.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_SCAN_END = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN_CODE, _END_OF_IMAGE_CODE = 0xDA, 0xD9
_CODES_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


class TooManyParts(UserError):
    """An image file that would take far longer to decode than its pixels suggest."""


def check_parts(content: bytes) -> None:
    """Refuse a JPEG or PNG file of too many parts, before it is opened.

    Raises:
        TooManyParts: see MAX_JPEG_SCANS, MAX_PARTS and MAX_COLOR_PROFILES.
    """
    if content.startswith(b"\xff\xd8"):
        may_have_scans = content.count(_START_OF_SCAN) > MAX_JPEG_SCANS
        if may_have_scans or len(content) > MAX_PARTS * _JPEG_PART_BYTES:
            _check_jpeg(content, may_have_scans)
    elif content.startswith(b"\x89PNG") and len(content) > MAX_PARTS * _PNG_PART_BYTES:
        _check_png(content)


def check_tiles(image: Image.Image) -> None:
    """Refuse an opened image of more strips or tiles than its pixels fill: each is decoded, those beyond them too.

    Raises:
        TooManyParts: it has more.
    """
    tiles = len(getattr(image, "tile", ()))
    if tiles <= 1:
        return
    # Strips of one row, or tiles of 8x8, of each channel by itself.
    most = (image.height + image.width * image.height // 64) * max(len(image.getbands()), 4) + MAX_PARTS
    if tiles > most:
        raise TooManyParts(
            f"it has {tiles} strips or tiles for {image.width}x{image.height} pixels, which need {most} at most; save "
            "it again"
        )


def _check_jpeg(content: bytes, may_have_scans: bool) -> None:
    """Walk over the markers as a decoder does: to the first scan, or to the end where there may be many."""
    position, parts, scans = 2, 0, 0
    while (marker := _MARKER.search(content, position)) is not None:
        # What stands between segments is read byte by byte.
        parts += 1 + marker.start() - position
        if parts - scans > MAX_PARTS:
            raise TooManyParts(f"it has more than {MAX_PARTS} segments in its header; save it again")
        code, position = marker[1][0], marker.end()
        if code == _END_OF_IMAGE_CODE:
            return
        if code in _CODES_WITHOUT_LENGTH:
            continue
        position += int.from_bytes(content[position : position + 2])
        if code != _START_OF_SCAN_CODE:
            continue
        if not may_have_scans:
            return
        scans += 1
        if scans > MAX_JPEG_SCANS:
            raise TooManyParts(
                f"it has more than {MAX_JPEG_SCANS} scans, each of which decodes every pixel again; save it again"
            )
        end = _SCAN_END.search(content, position)
        position = len(content) if end is None else end.start()


def _check_png(content: bytes) -> None:
    position, chunks, profiles = 8, 0, 0
    limit = MAX_PARTS + len(content) // 1024
    while position + 8 <= len(content):
        chunks += 1
        profiles += content[position + 4 : position + 8] == b"iCCP"
        if chunks > limit or profiles > MAX_COLOR_PROFILES:
            what = f"{limit} chunks" if chunks > limit else f"{MAX_COLOR_PROFILES} color profiles"
            raise TooManyParts(f"it has more than {what} in {len(content)} bytes; save it again")
        position += int.from_bytes(content[position : position + 4]) + _PNG_PART_BYTES
