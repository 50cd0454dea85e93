"""A file whose parts make it far more expensive than its pixels is refused before it is decoded."""

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from training.data.files.formats import decode_image
from training.data.image_parts import MAX_JPEG_SCANS, TooManyParts
from training.data.images import open_image, orient_and_convert
from training.errors import UserError


def encode(file_format: str, size: tuple[int, int] = (16, 16), **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, 128).save(stream, file_format, **options)
    return stream.getvalue()


def repeat_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    content = encode("JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + b"\xff\xd9"


def insert_png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    content = encode("PNG")
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return content[:33] + b"".join(parts) + content[33:]


def make_tiff(strips: int) -> bytes:
    """A TIFF of 16x16 pixels that has this many strips of one row, all in one place."""
    offsets = 8 + 2 + 9 * 12 + 4
    sizes, pixels = offsets + 4 * strips, offsets + 8 * strips
    tags = [(256, 1, 16), (257, 1, 16), (258, 1, 8), (259, 1, 1), (262, 1, 1), (273, strips, offsets), (277, 1, 1)]
    tags += [(278, 1, 1), (279, strips, sizes)]
    entries = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in tags)
    arrays = struct.pack("<I", pixels) * strips + struct.pack("<I", 16) * strips
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + arrays + bytes(range(16))


def test_usual_files_are_opened() -> None:
    usual = [encode("JPEG"), encode("JPEG", progressive=True), encode("PNG"), encode("WEBP"), make_tiff(16)]
    usual += [repeat_scans(MAX_JPEG_SCANS - 10), insert_png_chunks(*[(b"tEXt", b"a\0b")] * 900)]
    # No marker: an appended video or a thumbnail may hold these bytes by chance.
    usual += [encode("JPEG") + b"\xff\xda" * 500]

    for content in usual:
        assert orient_and_convert(open_image(content), "L").size == (16, 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (repeat_scans(MAX_JPEG_SCANS), r"more than 100 scans, each of which decodes every pixel again"),
        (encode("JPEG")[:2] + b"\xff\xe5\0\2" * 2000 + encode("JPEG")[2:], "more than 1000 segments"),
        (encode("JPEG")[:2] + b"\xff" * 5000 + encode("JPEG")[2:], "more than 1000 segments"),
        (encode("JPEG")[:2] + bytes(5000) + encode("JPEG")[2:], "more than 1000 segments"),
        (insert_png_chunks(*[(b"tEXt", b"a\0b")] * 1100), "more than 1016 chunks"),
        (insert_png_chunks(*[(b"iCCP", b"x\0\0" + zlib.compress(bytes(900_000)))] * 20), "more than 4 color profiles"),
        (make_tiff(3000), "3000 strips or tiles for 16x16 pixels"),
    ],
    ids=["scans", "segments", "fill bytes", "junk", "chunks", "profiles", "strips"],
)
def test_a_file_of_too_many_parts_is_refused_by_what_it_has(content: bytes, message: str) -> None:
    with pytest.raises(TooManyParts, match=message):
        open_image(content)
    with pytest.raises(UserError, match=rf"a\.jpg: it has .*{message}|a\.jpg: it has {message}"):
        decode_image(content, "a.jpg", 8, 8, "L")
