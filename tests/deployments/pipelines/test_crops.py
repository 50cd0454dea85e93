"""What boxes may be cropped from a request's images."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from deployments.errors import PayloadTooLarge
from deployments.pipelines import crops
from deployments.pipelines.crops import CropBudget, crop_boxes
from deployments.settings import Limits
from training.schema import ImageInput

SCHEMA = ImageInput(height=8, width=8, mode="L")


def make_image(side: int) -> str:
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def make_boxes(count: int, side: int) -> list[Any]:
    return [{"box": [0.0, 0.0, side, side]}] * count


def test_crops_of_many_times_an_images_pixels_are_refused_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    row = make_image(1000)
    monkeypatch.setattr(crops.base64, "b64encode", lambda content: pytest.fail("cropped"))

    with pytest.raises(PayloadTooLarge, match=r"boxes that were found have 100000000 pixels; the limit is 16000000"):
        crop_boxes(row, make_boxes(100, 1000), SCHEMA, CropBudget(Limits()))


def test_the_rows_of_a_request_share_a_budget_of_pixels_and_of_bytes() -> None:
    row, pixels = make_image(10), CropBudget(Limits(max_image_pixels=250))
    assert len(crop_boxes(row, make_boxes(2, 10), SCHEMA, pixels)) == 2
    with pytest.raises(PayloadTooLarge, match="300 pixels; the limit is 250"):
        crop_boxes(row, make_boxes(1, 10), SCHEMA, pixels)

    with pytest.raises(PayloadTooLarge, match="the boxes that were found would take 5130 bytes; the limit is 5000"):
        crop_boxes(row, make_boxes(10, 1), SCHEMA, CropBudget(Limits(max_decoded_bytes=5000)))
