"""A request's items to rows of the net's input: records, images, texts, series.

Tokens and category indexes are computed by the bundle's own tokenizer and schema, as in training.
"""
# Shapes: F features, K channels, H height, W width, T time steps.

import math
from typing import Any

import numpy as np

from deployments.errors import InvalidFeatures, InvalidShape, InvalidType, NotFinite, PayloadTooLarge
from deployments.protocols.arrays import Array, Rows, check_exact, max_exact_integer, to_array, to_exact_array
from deployments.protocols.decoded_size import check_decoded_size, check_tensor_size
from deployments.protocols.predict import images
from deployments.settings import Limits
from training.bundle.datatypes import Datatype, numpy_dtype
from training.bundle.manifest import Manifest
from training.data.preprocessing import MAX_TOKEN_CHARACTERS, tokenize_beginning, tokenize_end, truncate_tokens
from training.data.tokenizer import Encoding, Tokenizer
from training.data.values import is_missing_feature, match_category
from training.schema import Feature, ImageInput, SeriesInput, TableInput, TextInput

# A token's id and offsets as Python objects, and its place in the padded tensor.
_TOKEN_BYTES = 160
_PREDICATE_HINT = 'send {"text": "...", "predicate": [start, end]}, in characters'


class InputPreprocessor:
    """Encodes the items of one model's requests; an item's index is for messages only."""

    def __init__(self, manifest: Manifest, limits: Limits, tokenizer: Tokenizer | None) -> None:
        self._schema, self._limits, self._tokenizer = manifest.input_schema, limits, tokenizer
        self._datatype: Datatype = manifest.inputs[0].datatype
        # None where the net takes whole numbers only.
        self._max_exact = max_exact_integer(self._datatype)
        self._output_kind = manifest.output_schema.kind

    def preprocess_items(self, items: list[Any], *, inline: bool = False) -> tuple[Rows, list[Any]]:
        """Encode B items; `inline` where it is done on the event loop.

        Returns:
            B rows of the net's input; and for each what its prediction needs besides the net's output: the item and its
            tokens for a text, width and height for an image, None for the others.

        Raises:
            ClientError: the model does not take an item.
            TooLargeInline: its pixels are too many for the event loop.
        """
        schema = self._schema
        self._check_size(items)
        if isinstance(schema, TextInput):
            encodings, size = [], 0
            for index, item in enumerate(items):
                encodings.append(self._tokenize(item, index, schema))
                size += len(encodings[-1].ids) * _TOKEN_BYTES
                check_decoded_size(size, self._limits.max_decoded_bytes, "the texts' tokens")
            return [np.array(encoding.ids) for encoding in encodings], list(zip(items, encodings, strict=True))
        if isinstance(schema, SeriesInput):
            return [self._encode_series(item, index, schema) for index, item in enumerate(items)], [None] * len(items)
        if isinstance(schema, ImageInput):
            budget = images.PixelBudget(self._limits.max_image_pixels, inline=inline)
            decoded = [self._decode_image(item, index, budget, schema) for index, item in enumerate(items)]
            return np.stack([pixels for pixels, _ in decoded]), [size for _, size in decoded]
        records = [self._encode_record(item, index, schema) for index, item in enumerate(items)]
        return np.stack(records), [None] * len(items)

    def _check_size(self, items: list[Any]) -> None:
        """Raise PayloadTooLarge where the rows' tensor would be too large; tokens are counted as they are made."""
        schema, itemsize, rows = self._schema, numpy_dtype(self._datatype).itemsize, len(items)
        shape: tuple[int, ...] = ()
        if isinstance(schema, ImageInput):
            shape = (rows, schema.channels, schema.height, schema.width)
        elif isinstance(schema, SeriesInput):
            # Rows are padded to one another's length where they share a pass.
            longest = max((len(item) for item in items if isinstance(item, list)), default=0)
            shape = (rows, min(longest, schema.max_time_steps), len(schema.features))
        elif isinstance(schema, TableInput):
            shape = (rows, len(schema.features))
        check_tensor_size(shape, itemsize, self._limits.max_decoded_bytes)

    def preprocess_rows(self, items: list[Any]) -> Rows:
        """Encode B items; returns the rows only."""
        return self.preprocess_items(items)[0]

    def preprocess_image(self, content: bytes, *, inline: bool = False) -> tuple[Rows, list[Any]]:
        """Encode an image file as a request of one row; see preprocess_items."""
        assert isinstance(self._schema, ImageInput)
        budget = images.PixelBudget(self._limits.max_image_pixels, inline=inline)
        pixels, size = images.decode_image(content, self._schema, budget)
        return np.ascontiguousarray(pixels[None]), [size]

    def _encode_record(self, item: Any, index: int, schema: TableInput) -> Array:
        """Encode one row of a table, by feature name or in order; shape (F,)."""
        names = schema.feature_names
        if isinstance(item, dict):
            missing = [] if schema.allow_missing else [name for name in names if name not in item]
            unknown = [name for name in item if name not in names]
            if missing or unknown:
                raise InvalidFeatures(
                    f"row {index}: missing {missing or 'none'}, unknown {unknown or 'none'}; "
                    f"this model takes {list(names)}"
                )
            item = [item.get(name) for name in names]
        if not isinstance(item, list):
            raise InvalidType(f"row {index} is {_describe_type(item)}; send an object by feature name, or an array")
        if len(item) != len(names):
            raise InvalidShape(f"row {index} has {len(item)} values; this model takes {len(names)}")
        if not schema.allow_missing and not any(feature.categories for feature in schema.features):
            return self._encode_numbers(item, names, index)
        row = [
            self._encode_feature(feature, value, index, schema.allow_missing)
            for feature, value in zip(schema.features, item, strict=True)
        ]
        return self._to_row(row, names, index, allow_nan=True)

    def _to_row(self, values: list[Any], names: tuple[str, ...], index: int, *, allow_nan: bool = False) -> Array:
        """Convert a row's checked values; a number out of the type's range is refused by its name."""
        try:
            return to_array(values, self._datatype, allow_nan=allow_nan)
        except (InvalidType, NotFinite):
            for name, value in zip(names, values, strict=True):
                try:
                    to_array([value], self._datatype, allow_nan=allow_nan)
                except (InvalidType, NotFinite) as error:
                    raise type(error)(f"row {index}: {name!r}: {error}") from None
            raise

    def _encode_numbers(self, item: list[Any], names: tuple[str, ...], index: int) -> Array:
        for name, value in zip(names, item, strict=True):
            self._check_number(value, name, index)
        return self._to_row(item, names, index)

    def _encode_feature(self, feature: Feature, value: Any, index: int, allow_missing: bool) -> float:
        """Encode one feature: a number, a category's index, or NaN where it is missing."""
        encoded = math.nan
        if feature.categories and not (value is None and allow_missing):
            encoded = self._encode_category(feature, value, index, allow_missing)
        elif value is not None or not allow_missing:
            self._check_number(value, feature.name, index)
            encoded = value
        if encoded != encoded and self._max_exact is None:
            raise InvalidType(
                f"row {index}: {feature.name!r} is missing, which {self._datatype} cannot express; send a value"
            )
        return encoded

    def _encode_category(self, feature: Feature, value: Any, index: int, allow_missing: bool) -> float:
        """Encode a category as its index, spelled as training spells it; or NaN where it is missing."""
        categories = feature.categories or ()
        category = match_category(value, categories)
        if category is not None:
            return categories.index(category)
        if allow_missing and is_missing_feature(value):
            return math.nan
        raise InvalidType(f"row {index}: {feature.name!r} is {value!r:.80}; send one of {list(categories)}")

    def _check_number(self, value: Any, name: str, index: int) -> None:
        """Refuse what is no number, and a number that the net's input does not hold."""
        limit = self._max_exact
        if type(value) is int and (limit is None or -limit <= value <= limit):
            return
        if limit is None or type(value) not in (int, float):
            needed = "a number" if limit else "an integer"
            raise InvalidType(f"row {index}: {name!r} is {_describe_type(value)}; send {needed}")
        if not -limit <= value <= limit:
            try:
                check_exact([value], self._datatype)
            except InvalidType as error:
                raise InvalidType(f"row {index}: {name!r}: {error}") from None

    def _decode_image(
        self, item: Any, index: int, budget: images.PixelBudget, schema: ImageInput
    ) -> tuple[Array, tuple[int, int]]:
        """Decode one image, in base64 or as lists of pixels; shape (K, H, W), and its width and height as sent."""
        if isinstance(item, str):
            return images.decode_base64_image(item, schema, budget)
        if not isinstance(item, list):
            raise InvalidType(f"row {index} is {_describe_type(item)}; send an image in base64, or arrays of pixels")
        _check_pixels(item, index)
        pixels = to_array(item, self._datatype)
        shape = (schema.channels, schema.height, schema.width)
        if pixels.shape != shape and not (schema.channels == 1 and pixels.shape == shape[1:]):
            raise InvalidShape(f"row {index} has shape {list(pixels.shape)}; this model takes {list(shape)}")
        return pixels.reshape(shape), (schema.width, schema.height)

    def _tokenize(self, item: Any, index: int, schema: TextInput) -> Encoding:
        """Tokenize a text, or a text with its predicate."""
        assert self._tokenizer is not None
        if schema.has_predicate:
            _check_predicate(item, index)
            if item["predicate"][1] > schema.max_tokens * MAX_TOKEN_CHARACTERS:
                raise PayloadTooLarge(
                    f"row {index} has more than {schema.max_tokens} tokens, the limit; split the text"
                )
        elif not isinstance(item, str):
            raise InvalidType(f"row {index} is {_describe_type(item)}; send a text")
        if self._output_kind == "text":
            # The next token depends on the end of the prompt.
            return tokenize_end(self._tokenizer, item, schema.max_tokens)
        # The beginning is enough for a label, as in training, but not for spans, which can be anywhere.
        encoding = tokenize_beginning(self._tokenizer, item, schema.max_tokens)
        if self._output_kind == "spans" and len(encoding.ids) > schema.max_tokens:
            raise PayloadTooLarge(f"row {index} has more than {schema.max_tokens} tokens, the limit; split the text")
        return truncate_tokens(encoding, schema.max_tokens)

    def _encode_series(self, item: Any, index: int, schema: SeriesInput) -> Array:
        """Encode one series; shape (T, F)."""
        if not isinstance(item, list) or not item:
            problem = "empty" if item == [] else _describe_type(item)
            raise InvalidType(f"row {index} is {problem}; send an array of time steps")
        has_one_feature = len(schema.features) == 1
        time_steps = [[value] if has_one_feature and not isinstance(value, list) else value for value in item]
        number_types = (int,) if self._max_exact is None else (int, float)
        for step_index, values in enumerate(time_steps):
            if not isinstance(values, list) or any(type(value) not in number_types for value in values):
                raise InvalidType(
                    f"row {index}: time step {step_index} is not an array of "
                    f"{'integers' if self._max_exact is None else 'numbers'}; send one for each of {schema.features}"
                )
        if len(time_steps) > schema.max_time_steps:
            raise PayloadTooLarge(
                f"row {index} has {len(time_steps)} time steps; the limit is {schema.max_time_steps}; "
                "send the last ones"
            )
        try:
            series = to_exact_array(time_steps, self._datatype)
        except (InvalidType, NotFinite, InvalidShape) as error:
            raise type(error)(f"row {index}: {error}") from None
        if series.shape != (len(time_steps), len(schema.features)):
            raise InvalidShape(
                f"row {index} has time steps of {series.shape[1]} numbers; this model takes {schema.features}"
            )
        return series


def _check_predicate(item: Any, index: int) -> None:
    if not isinstance(item, dict) or item.keys() != {"text", "predicate"} or not isinstance(item["text"], str):
        raise InvalidType(f"row {index} is not a text with a predicate; {_PREDICATE_HINT}")
    predicate, length = item["predicate"], len(item["text"])
    if not isinstance(predicate, list) or len(predicate) != 2 or any(type(value) is not int for value in predicate):
        raise InvalidType(f"row {index}: predicate is {predicate!r}; {_PREDICATE_HINT}")
    if not 0 <= predicate[0] < predicate[1] <= length:
        raise InvalidShape(
            f"row {index}: predicate {predicate} is outside the text of {length} characters; {_PREDICATE_HINT}"
        )


def _check_pixels(item: Any, index: int) -> None:
    """Refuse what numpy would convert to a pixel: booleans, strings of digits, fractions."""
    pending = [item]
    while pending:
        for value in pending.pop():
            if type(value) is list:
                pending.append(value)
            elif type(value) is not int:
                raise InvalidType(
                    f"row {index} has {_describe_type(value)} among its pixels; send integers from 0 to 255"
                )


def _describe_type(value: Any) -> str:
    """Name a value's JSON type, with its article."""
    names: dict[type, str] = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
