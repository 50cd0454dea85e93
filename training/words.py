"""How a model's task is put in words: what a person sends and reads, against the tensors that the net takes.

Declared by the data set, carried inside the bundle, applied by `deployments.codec`. The arithmetic part of preparation
(centring, scaling) is not here: it is a layer of the exported net itself, so that training and serving cannot differ.
"""

import base64
import io
from typing import Annotated, Literal

from PIL import Image
from pydantic import Field, JsonValue
from torch import Tensor

from training.closed import Closed


class TableWords(Closed):
    """A row of numbers, by feature name or in this order."""

    kind: Literal["table"] = "table"
    features: tuple[str, ...] = Field(min_length=1)

    def example(self, row: Tensor) -> JsonValue:
        """Say one row of shape (F,) by feature name."""
        return dict(zip(self.features, (round(value, 6) for value in row.tolist()), strict=True))


class ImageWords(Closed):
    """A picture; decoded, turned to `mode`, resized to height x width, as uint8 of shape (channels, height, width)."""

    kind: Literal["image"] = "image"
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    mode: Literal["L", "RGB"] = "RGB"

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return 1 if self.mode == "L" else 3

    def png(self, row: Tensor) -> bytes:
        """Draw one uint8 row of shape (channels, height, width) as a PNG file."""
        pixels = row.permute(1, 2, 0).squeeze(2) if self.mode == "L" else row.permute(1, 2, 0)
        out = io.BytesIO()
        Image.fromarray(pixels.numpy(), self.mode).save(out, "PNG")
        return out.getvalue()

    def example(self, row: Tensor) -> JsonValue:
        """Say one row as a PNG in base64."""
        return base64.b64encode(self.png(row)).decode()


Words = Annotated[TableWords | ImageWords, Field(discriminator="kind")]


class Classes(Closed):
    """The output's columns are logits, one per label; scores are their softmax."""

    kind: Literal["classes"] = "classes"
    labels: tuple[str, ...] = Field(min_length=2)
