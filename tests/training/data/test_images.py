"""A picture means what a viewer shows, or is refused."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from training.data.images import UnsupportedPixels, orient_and_convert

RAMP = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)


def read(image: Image.Image, mode: str, file_format: str = "PNG", **options: Any) -> np.ndarray[Any, Any]:
    """What Shoal makes of an image that was written to a file."""
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return np.asarray(orient_and_convert(Image.open(stream), mode)).astype(int)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bits_of_gray_are_the_same_picture_as_8(file_format: str, mode: str) -> None:
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert deep.mode == "I;16"

    assert np.array_equal(read(deep, mode, file_format), read(Image.fromarray(RAMP), mode, file_format))


def test_16_bits_between_those_of_8_are_rounded() -> None:
    values = np.array([[0, 128, 129, 65535, 32896]], np.uint16)

    assert read(Image.fromarray(values), "L").tolist() == [[0, 0, 1, 255, 128]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_white_are_refused(mode: str) -> None:
    image = Image.fromarray(RAMP).convert(mode)

    with pytest.raises(UnsupportedPixels, match="of which none is known to be white"):
        read(image, "L", "TIFF")


def test_bilevel_images_are_black_and_white() -> None:
    image = Image.fromarray(RAMP).convert("1")

    assert set(np.unique(read(image, "L"))) == {0, 255}


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_what_is_transparent_is_white(file_format: str) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[0, 1] = (0, 0, 0, 128)

    shown = read(Image.fromarray(pixels), "RGB", file_format, lossless=True)

    assert shown[0, 0].tolist() == [10, 20, 30]
    assert np.abs(shown[0, 1] - 127).max() <= 1
    assert shown[1].tolist() == [[255, 255, 255]] * 2


def test_gray_with_alpha_and_a_transparent_palette_are_white_too() -> None:
    gray = Image.merge("LA", (Image.new("L", (2, 2), 0), Image.new("L", (2, 2), 0)))
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])

    assert read(gray, "L").tolist() == [[255, 255]] * 2
    assert read(palette, "RGB")[0, 0].tolist() == [0, 0, 255]
    assert read(palette, "RGB", transparency=1)[0, 0].tolist() == [255, 255, 255]


def test_a_transparent_value_of_16_bits_is_white() -> None:
    image = Image.fromarray(np.array([[1000, 0]], np.uint16))

    assert read(image, "L", transparency=1000).tolist() == [[255, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(RAMP[:4])

    shown = read(image, "L", exif=exif)

    assert shown.shape == ((8, 4) if orientation >= 5 else (4, 8))
    upright = {1: RAMP[:4], 2: RAMP[:4, ::-1], 3: RAMP[:4][::-1, ::-1], 4: RAMP[:4][::-1], 5: RAMP[:4].T}
    upright |= {6: np.rot90(RAMP[:4], -1), 7: RAMP[:4][::-1, ::-1].T, 8: np.rot90(RAMP[:4])}
    assert np.array_equal(shown, upright[orientation])


def make_display_p3() -> bytes:
    """The profile of Apple's displays, made of its primaries: a red that sRGB has not."""
    lcms = ImageCms.createProfile("sRGB")
    content = bytearray(ImageCms.ImageCmsProfile(lcms).tobytes())
    # s15Fixed16 XYZ of the primaries, adapted to D50 (ICC's registry of Display P3).
    primaries = {b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189)}
    primaries[b"bXYZ"] = (0.15710, 0.06657, 0.78407)
    for index in range(struct.unpack_from(">I", content, 128)[0]):
        name, offset, _ = struct.unpack_from(">4sII", content, 132 + 12 * index)
        if name in primaries:
            struct.pack_into(">3i", content, offset + 8, *(round(value * 65536) for value in primaries[name]))
    return bytes(content).replace("sRGB built-in".encode("utf-16-be"), "Display built".encode("utf-16-be"))


def test_an_embedded_color_profile_is_applied() -> None:
    image = Image.new("RGB", (2, 2), (200, 100, 100))

    shown = read(image, "RGB", icc_profile=make_display_p3())[0, 0]

    # Redder than the numbers say, as Display P3's red is.
    assert shown[0] > 205
    assert shown[1] < 98


def test_an_srgb_profile_and_a_broken_one_change_nothing() -> None:
    image = Image.fromarray(np.dstack([RAMP] * 3))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    for profile in (srgb, b"not a profile", srgb[:200]):
        assert np.array_equal(read(image, "RGB", icc_profile=profile), np.dstack([RAMP] * 3))


def test_a_png_of_another_gamma_is_as_bright_as_a_viewer_shows_it() -> None:
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, "PNG")
    content = stream.getvalue()
    chunk = b"gAMA" + struct.pack(">I", 100_000)
    position = content.index(b"IDAT") - 4
    linear = content[:position] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    stream = io.BytesIO(linear + content[position:])

    shown = np.asarray(orient_and_convert(Image.open(stream), "L")).astype(int)

    expected = np.round(255 * (RAMP / 255) ** (1 / 2.2)).astype(int)
    assert np.abs(shown - expected).max() <= 1


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (2, 2), (0, 255, 255, 0))

    shown = read(image, "RGB", "TIFF")[0, 0]

    assert shown[0] > 200
    assert max(shown[1], shown[2]) < 60


def make_tiff(bits: int, photometric: int, data: bytes, width: int = 4, sample_format: int = 1) -> bytes:
    """A TIFF file of one row of gray, little-endian and uncompressed."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 1, 279: len(data)}
    tags[339] = sample_format
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in sorted(tags.items())]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + data


def read_bytes(content: bytes) -> Any:
    return np.asarray(orient_and_convert(Image.open(io.BytesIO(content)), "L")).astype(int).tolist()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (make_tiff(16, 1, struct.pack("<4H", 0, 21845, 43690, 65535)), [0, 85, 170, 255]),
        (make_tiff(16, 0, struct.pack("<4H", 0, 21845, 43690, 65535)), [255, 170, 85, 0]),
        (make_tiff(12, 1, bytes([0xFF, 0xF5, 0x55, 0xAA, 0xA0, 0x00])), [255, 85, 170, 0]),
        (make_tiff(8, 0, bytes([0, 85, 170, 255])), [255, 170, 85, 0]),
        (make_tiff(4, 1, bytes([0x0F, 0x7F])), [0, 255, 119, 255]),
        (b"P5\n3 1\n65535\n" + struct.pack(">3H", 0, 32896, 65535), [0, 128, 255]),
        (b"P5\n3 1\n4095\n" + struct.pack(">3H", 0, 1365, 4095), [0, 85, 255]),
        (b"P5\n3 1\n15\n" + bytes([0, 5, 15]), [0, 85, 255]),
    ],
    ids=["TIFF 16", "TIFF 16 inverted", "TIFF 12", "TIFF 8 inverted", "TIFF 4", "PGM 16", "PGM 12", "PGM 4"],
)
def test_gray_of_every_depth_is_what_its_file_says(content: bytes, expected: list[int]) -> None:
    assert read_bytes(content) == [expected]


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_pixels_are_refused(bits: int) -> None:
    with pytest.raises(UnsupportedPixels, match="it has signed pixels"):
        read_bytes(make_tiff(bits, 1, bytes(4 * bits // 8), sample_format=2))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_several_frames_are_refused(file_format: str) -> None:
    black, white = Image.new("RGB", (8, 8), 0), Image.new("RGB", (8, 8), "white")

    with pytest.raises(UnsupportedPixels, match="it has 2 frames or pages, and a net takes one"):
        read(black, "RGB", file_format, save_all=True, append_images=[white])
    assert read(black, "RGB", file_format, save_all=True).max() == 0


def test_the_preview_in_a_cameras_jpeg_is_no_second_frame() -> None:
    photograph = Image.new("RGB", (8, 8), 0)

    assert read(photograph, "RGB", "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4), "white")]).max() < 9
