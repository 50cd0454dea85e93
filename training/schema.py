"""Input and output schemas: the JSON form of a task's rows, and the tensors that a net takes and returns.

A data set declares them, the bundle carries them, `deployments.protocols.predict` applies them. Centering and scaling
are not part of a schema: they are layers of the exported net, so that training and serving cannot differ.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from torch import Tensor

MAX_LISTED_FEATURES = 12
SPLITS = ("train", "validation", "test")


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys: a misspelt setting is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions and what they are called now; an old key is refused with the new one."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A validator of this class would run for those without renamed keys too. And it must be the model's own: one
        # around it (`__get_pydantic_core_schema__`) is lost where a model refers to itself, as a pipeline's nodes do.
        if "renamed_keys" in vars(cls):
            cls._refuse_renamed_keys = model_validator(mode="before")(classmethod(_refuse_renamed_keys))  # type: ignore[attr-defined, arg-type]


def _refuse_renamed_keys(cls: type[StrictModel], value: Any) -> Any:
    if isinstance(value, Mapping):
        old_keys = [key for key in value if key in cls.renamed_keys]
        if old_keys:
            hints = ", ".join(f"{key!r} is called {cls.renamed_keys[key]!r} now" for key in old_keys)
            raise PydanticCustomError("renamed_key", "{hints}", {"hints": hints})
    return value


class Feature(StrictModel):
    """One column of a table: a number, or one of named categories, which the net gets as its index."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"levels": "categories"}

    name: str
    categories: tuple[str, ...] | None = Field(None, min_length=2, description="None for a number.")


def _as_feature(feature: object) -> object:
    """Read a bare name as a numeric feature."""
    return Feature(name=feature) if isinstance(feature, str) else feature


class TableInput(StrictModel):
    """A row of numbers and categories, by feature name or in this order; float32 of shape (F,)."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"missing": "allow_missing"}

    kind: Literal["table"] = "table"
    features: tuple[Annotated[Feature, BeforeValidator(_as_feature)], ...] = Field(min_length=1)
    allow_missing: bool = Field(False, description="Whether a feature may be left out (null); the net gets NaN.")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def encoded_width(self) -> int:
        """Numbers of a row after encoding: one for a number, one for each value of a category (one-hot)."""
        return sum(len(feature.categories) if feature.categories else 1 for feature in self.features)

    def describe_encoding(self) -> str:
        """Say what a row becomes, as `4 numbers a row: length, color (3 categories)`."""
        names = [
            f"{feature.name} ({len(feature.categories)} categories)" if feature.categories else feature.name
            for feature in self.features
        ]
        shown = ", ".join(names[:MAX_LISTED_FEATURES])
        more = f" and {len(names) - MAX_LISTED_FEATURES} more" if len(names) > MAX_LISTED_FEATURES else ""
        return f"{self.encoded_width} numbers a row: {shown}{more}"

    def to_example(self, row: Tensor) -> JsonValue:
        """Convert one row of shape (F,) to JSON, by feature name; NaN becomes null."""
        example: dict[str, JsonValue] = {}
        for feature, value in zip(self.features, row.tolist(), strict=True):
            if math.isnan(value):
                example[feature.name] = None
            else:
                example[feature.name] = feature.categories[int(value)] if feature.categories else round(value, 6)
        return example


class ImageInput(StrictModel):
    """An image; decoded, converted to `mode`, resized to height x width; uint8 of shape (channels, height, width)."""

    kind: Literal["image"] = "image"
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    mode: Literal["L", "RGB"] = "RGB"

    @property
    def channels(self) -> int:
        """1 for grayscale, 3 for RGB."""
        return 1 if self.mode == "L" else 3

    def encode_png(self, row: Tensor) -> bytes:
        """Encode one uint8 row of shape (channels, height, width) as a PNG file."""
        from PIL import Image

        pixels = row.permute(1, 2, 0).squeeze(2) if self.mode == "L" else row.permute(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(pixels.numpy(), self.mode).save(buffer, "PNG")
        return buffer.getvalue()

    def to_example(self, row: Tensor) -> JsonValue:
        """Convert one row of shape (channels, height, width) to JSON: a PNG file in base64."""
        return base64.b64encode(self.encode_png(row)).decode()


class TextInput(StrictModel):
    """A text; its token ids by tokenizer.json, int64 of shape (T,); 0 is padding."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"predicate": "has_predicate"}

    kind: Literal["text"] = "text"
    max_tokens: int = Field(ge=2)
    has_predicate: bool = Field(False, description='Whether a row is {"text", "predicate": [start, end]} instead.')

    padding_value: ClassVar[int] = 0


class SeriesInput(StrictModel):
    """A row of time steps, each a list of numbers in this order; float32 of shape (T, F); NaN is padding."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"max_steps": "max_time_steps"}

    kind: Literal["series"] = "series"
    features: tuple[str, ...] = Field(min_length=1)
    max_time_steps: int = Field(ge=1)

    padding_value: ClassVar[float] = math.nan

    def to_example(self, row: Tensor) -> JsonValue:
        """Convert one row of shape (T, F) to JSON: a list for each time step, without padding."""
        time_steps: JsonValue = [[round(value, 6) for value in step] for step in row[~row.isnan().any(1)].tolist()]
        return time_steps


InputSchema = Annotated[TableInput | ImageInput | TextInput | SeriesInput, Field(discriminator="kind")]
"""One row of a `predict` request, which takes a list of them."""


def max_sequence_length(schema: InputSchema) -> int | None:
    """The maximum of T, the sequence length of a row; None where rows have no time axis."""
    if isinstance(schema, TextInput):
        return schema.max_tokens
    return schema.max_time_steps if isinstance(schema, SeriesInput) else None


class ClassOutput(StrictModel):
    """Output (B, C): logits, one per label; scores are softmax(logits / temperature)."""

    kind: Literal["classes"] = "classes"
    labels: tuple[str, ...] = Field(min_length=2)
    temperature: float = Field(
        1.0, gt=0, description="Fitted on the validation rows (Guo et al., 2017), so that a score is a probability."
    )


class NumberOutput(StrictModel):
    """Output (B, 1): one number per row, in the unit of the target."""

    kind: Literal["number"] = "number"
    name: str


class SpanOutput(StrictModel):
    """Output (B, T, 1 + 2K): at each token a logit for O, then for B- and I- of each of K labels."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"types": "labels"}

    kind: Literal["spans"] = "spans"
    labels: tuple[str, ...] = Field(min_length=1)


class TextOutput(StrictModel):
    """Output (B, T, V): at each token the logits of the next one; text is generated token by token."""

    kind: Literal["text"] = "text"


class BoxOutput(StrictModel):
    """Output (B, K, 6): x1, y1, x2, y2 in pixels of the net's input, score, label index; highest score first."""

    kind: Literal["boxes"] = "boxes"
    labels: tuple[str, ...] = Field(min_length=1)


class ImageOutput(StrictModel):
    """Outputs: the reconstructed image (B, channels, H, W) in 0..1, mean and log-variance of its latent code (B, Z)."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"latent": "latent_size"}

    kind: Literal["image"] = "image"
    latent_size: int = Field(ge=1)


OutputSchema = Annotated[
    ClassOutput | NumberOutput | SpanOutput | TextOutput | BoxOutput | ImageOutput, Field(discriminator="kind")
]
"""One row of a `predict` response, and what the net's output tensors hold."""
