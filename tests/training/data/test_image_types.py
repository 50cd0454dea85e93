"""Image types: the table agrees with Pillow, and finds each type by every key."""

import io
import subprocess
import sys

import pytest
from PIL import Image

from training.data.image_types import IMAGE_TYPES, SERVED_IMAGE_TYPES, ImageType, by_media_type, by_suffix, detect


def encode_image(image_type: ImageType, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 6)).save(buffer, image_type.pillow_format)
    return buffer.getvalue()


@pytest.mark.parametrize("image_type", IMAGE_TYPES, ids=lambda image_type: image_type.media_type)
def test_a_file_that_pillow_writes_is_detected(image_type: ImageType) -> None:
    content = encode_image(image_type, "L" if ".pgm" in image_type.suffixes else "RGB")

    assert detect(content) == image_type
    assert detect(content[:12]) == image_type


@pytest.mark.parametrize("image_type", IMAGE_TYPES, ids=lambda image_type: image_type.media_type)
def test_suffixes_and_formats_are_pillows_own(image_type: ImageType) -> None:
    for suffix in image_type.suffixes:
        assert Image.registered_extensions()[suffix] == image_type.pillow_format


def test_each_type_is_found_by_its_media_type_and_suffixes_in_any_case() -> None:
    for image_type in IMAGE_TYPES:
        assert by_media_type(image_type.media_type.upper()) == image_type
        assert all(by_suffix(suffix.upper()) == image_type for suffix in image_type.suffixes)
    assert by_media_type("text/plain") is None
    assert by_suffix(".csv") is None
    assert by_suffix("") is None
    assert detect(b"") is None
    assert detect(b"no image") is None


def test_requests_may_send_png_jpeg_and_webp() -> None:
    assert [image_type.pillow_format for image_type in SERVED_IMAGE_TYPES] == ["PNG", "JPEG", "WEBP"]


def test_the_table_loads_no_heavy_package() -> None:
    heavy = {"torch", "ray", "PIL", "numpy", "pydantic"}
    code = f"import sys, training.data.image_types; print({heavy} & sys.modules.keys())"

    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert output.strip() == "set()"
