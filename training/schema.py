"""How a model's task is put in words: what a person sends and reads, against the tensors that the net takes.

Declared by the data set, carried inside the bundle, applied by `deployments.codec`. The arithmetic part of preparation
(centring, scaling) is not here: it is a layer of the exported net itself, so that training and serving cannot differ.
"""

import base64
import io
import math
from typing import Annotated, ClassVar, Literal

from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from torch import Tensor

SPLITS = ("train", "validation", "test")


class StrictModel(BaseModel):
    """A frozen model that refuses keys it does not know: a misspelt setting is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Feature(StrictModel):
    """One column of a table: a number, or one of named levels, which the net gets as its place among them."""

    name: str
    categories: tuple[str, ...] | None = Field(None, min_length=2, description="None for a number.")


def _as_feature(feature: object) -> object:
    """Take a bare name for a number."""
    return Feature(name=feature) if isinstance(feature, str) else feature


class TableInput(StrictModel):
    """A row of numbers and levels, by feature name or in this order; float32 of shape (F,)."""

    kind: Literal["table"] = "table"
    features: tuple[Annotated[Feature, BeforeValidator(_as_feature)], ...] = Field(min_length=1)
    allow_missing: bool = Field(False, description="Whether a feature may be left out (null); the net gets NaN.")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(feature.name for feature in self.features)

    def to_example(self, row: Tensor) -> JsonValue:
        """Say one row of shape (F,) by feature name."""
        said: dict[str, JsonValue] = {}
        for feature, value in zip(self.features, row.tolist(), strict=True):
            if math.isnan(value):
                said[feature.name] = None
            else:
                said[feature.name] = feature.categories[int(value)] if feature.categories else round(value, 6)
        return said


class ImageInput(StrictModel):
    """A picture; decoded, turned to `mode`, resized to height x width, as uint8 of shape (channels, height, width)."""

    kind: Literal["image"] = "image"
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    mode: Literal["L", "RGB"] = "RGB"

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return 1 if self.mode == "L" else 3

    def encode_png(self, row: Tensor) -> bytes:
        """Draw one uint8 row of shape (channels, height, width) as a PNG file."""
        pixels = row.permute(1, 2, 0).squeeze(2) if self.mode == "L" else row.permute(1, 2, 0)
        out = io.BytesIO()
        Image.fromarray(pixels.numpy(), self.mode).save(out, "PNG")
        return out.getvalue()

    def to_example(self, row: Tensor) -> JsonValue:
        """Say one row as a PNG in base64."""
        return base64.b64encode(self.encode_png(row)).decode()


class TextInput(StrictModel):
    """A text; as tokens of tokenizer.json, int64 of shape (T,), where 0 fills up shorter rows of a batch."""

    kind: Literal["text"] = "text"
    max_tokens: int = Field(ge=2)
    has_predicate: bool = Field(False, description='Whether a row is {"text", "predicate": [start, end]} instead.')

    padding_value: ClassVar[int] = 0


class SeriesInput(StrictModel):
    """A row of steps in time, each a list of numbers in this order; float32 of shape (T, F); NaN fills up."""

    kind: Literal["series"] = "series"
    features: tuple[str, ...] = Field(min_length=1)
    max_time_steps: int = Field(ge=1)

    padding_value: ClassVar[float] = math.nan

    def to_example(self, row: Tensor) -> JsonValue:
        """Say one row of shape (T, F) as lists, without the filling."""
        steps: JsonValue = [[round(value, 6) for value in step] for step in row[~row.isnan().any(1)].tolist()]
        return steps


InputSchema = Annotated[TableInput | ImageInput | TextInput | SeriesInput, Field(discriminator="kind")]
"""What a person sends; `predict` takes a list of them."""


def max_sequence_length(words: InputSchema) -> int | None:
    """The longest row, where rows have steps."""
    if isinstance(words, TextInput):
        return words.max_tokens
    return words.max_time_steps if isinstance(words, SeriesInput) else None


class ClassOutput(StrictModel):
    """Output (B, C): logits, one per label; scores are softmax(logits / temperature)."""

    kind: Literal["classes"] = "classes"
    labels: tuple[str, ...] = Field(min_length=2)
    temperature: float = Field(
        1.0, gt=0, description="Fitted on the validation rows (Guo et al., 2017), so that a score is a probability."
    )


class NumberOutput(StrictModel):
    """Output (B, 1): one number a row, in the target's own unit."""

    kind: Literal["number"] = "number"
    name: str


class SpanOutput(StrictModel):
    """Output (B, T, 1 + 2K): a logit for O, then for B- and I- of each of K types, at each token."""

    kind: Literal["spans"] = "spans"
    labels: tuple[str, ...] = Field(min_length=1)


class TextOutput(StrictModel):
    """Output (B, T, V): logits of the next token after each; a text is continued token by token."""

    kind: Literal["text"] = "text"


class BoxOutput(StrictModel):
    """Output (B, K, 6): x1, y1, x2, y2 in pixels of the net's picture, score and label number; best first."""

    kind: Literal["boxes"] = "boxes"
    labels: tuple[str, ...] = Field(min_length=1)


class ImageOutput(StrictModel):
    """Outputs: the reconstructed picture (B, K, H, W) in 0..1, mean and log-variance of its latent code (B, Z)."""

    kind: Literal["image"] = "image"
    latent_size: int = Field(ge=1)


OutputSchema = Annotated[
    ClassOutput | NumberOutput | SpanOutput | TextOutput | BoxOutput | ImageOutput, Field(discriminator="kind")
]
"""What comes back, and what the net's outputs mean."""
