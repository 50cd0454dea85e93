"""A person's words to the net's rows: records, pictures, texts, series; one file for all that can be sent.

What turns a text into tokens and a level into a number is the bundle's own, the same as in training.
"""
# Shapes: F features, K channels, H height, W width, T steps.

import math
from typing import Any

import numpy as np

from deployments.errors import InvalidFeatures, InvalidShape, InvalidType, PayloadTooLarge
from deployments.protocols.arrays import Array, Rows, to_array
from deployments.protocols.predict import images
from deployments.settings import Limits
from training.bundle.datatypes import Datatype
from training.bundle.manifest import Manifest
from training.data.preprocessing import tokenize_row, truncate_tokens
from training.data.tokenizer import Encoding, Tokenizer
from training.schema import Feature, ImageInput, SeriesInput, TableInput, TextInput


class InputReader:
    """Reads items of one model's kind; an item's number is for messages only."""

    def __init__(self, manifest: Manifest, limits: Limits, tokeniser: Tokenizer | None) -> None:
        self.input_schema, self._limits, self._tokeniser = manifest.input_schema, limits, tokeniser
        self._datatype: Datatype = manifest.inputs[0].datatype
        self._answer = manifest.output_schema.kind

    def read_items(self, items: list[Any]) -> tuple[Rows, list[Any]]:
        """Turn items into B rows of the net's input, and what the answer to each must know of it.

        Raises:
            ClientError: an item is not what the model takes.
        """
        words = self.input_schema
        if isinstance(words, TextInput):
            tokens = [self._tokenize(item, index, words) for index, item in enumerate(items)]
            return [np.array(each.ids) for each in tokens], list(zip(items, tokens, strict=True))
        if isinstance(words, SeriesInput):
            return [self._encode_series(item, index, words) for index, item in enumerate(items)], [None] * len(items)
        if isinstance(words, ImageInput):
            budget = images.PixelBudget(self._limits.max_image_pixels)
            found = [self._decode_image(item, index, budget, words) for index, item in enumerate(items)]
            return np.stack([pixels for pixels, _ in found]), [size for _, size in found]
        numbers = [self._encode_record(item, index, words) for index, item in enumerate(items)]
        return np.stack(numbers), [None] * len(items)

    def read_rows(self, items: list[Any]) -> Rows:
        """What `read` makes of items, without what is only for answers in words."""
        return self.read_items(items)[0]

    def read_image(self, raw: bytes) -> tuple[Rows, list[Any]]:
        """Read a picture's own bytes as a request of one row."""
        assert isinstance(self.input_schema, ImageInput)
        pixels, size = images.decode_image(raw, self.input_schema, images.PixelBudget(self._limits.max_image_pixels))
        return np.ascontiguousarray(pixels[None]), [size]

    def _encode_record(self, item: Any, index: int, words: TableInput) -> Array:
        """One row of a table, by name or in order; shape (F,)."""
        names = words.feature_names
        if isinstance(item, dict):
            missing = [] if words.allow_missing else [name for name in names if name not in item]
            extra = [name for name in item if name not in names]
            if missing or extra:
                raise InvalidFeatures(
                    f"row {index}: missing {missing or 'none'}, unknown {extra or 'none'}; "
                    f"this model takes {list(names)}"
                )
            item = [item.get(name) for name in names]
        if not isinstance(item, list):
            raise InvalidType(f"row {index} is a {json_type(item)}; send an object by feature name, or a list")
        if len(item) != len(names):
            raise InvalidShape(f"row {index} has {len(item)} values; this model takes {len(names)}")
        if not words.allow_missing and not any(feature.categories for feature in words.features):
            return self._encode_numbers(item, names, index)
        row = [
            self._encode_feature(*pair, index, words.allow_missing) for pair in zip(words.features, item, strict=True)
        ]
        return np.array(row, dtype=np.float32)

    def _encode_numbers(self, item: list[Any], names: tuple[str, ...], index: int) -> Array:
        # numpy would cut a fraction off silently.
        fractions = self._datatype in ("FP16", "BF16", "FP32", "FP64")
        for name, value in zip(names, item, strict=True):
            if type(value) is not int and not (fractions and type(value) is float):
                kind = "a number" if fractions else "an integer"
                raise InvalidType(f"row {index}: {name!r} is a {json_type(value)}; send {kind}")
        return to_array(item, self._datatype)

    def _encode_feature(self, feature: Feature, value: Any, index: int, missing: bool) -> float:
        """One feature as the net gets it: a number, a level's place, NaN where it is missing."""
        if value is None and missing:
            return math.nan
        if feature.categories:
            if value not in feature.categories:
                raise InvalidType(
                    f"row {index}: {feature.name!r} is {value!r}; it is one of {list(feature.categories)}"
                )
            return float(feature.categories.index(value))
        if type(value) not in (int, float):
            raise InvalidType(f"row {index}: {feature.name!r} is a {json_type(value)}; send a number")
        return float(to_array([value], self._datatype)[0])

    def _decode_image(
        self, item: Any, index: int, budget: images.PixelBudget, words: ImageInput
    ) -> tuple[Array, tuple[int, int]]:
        """One picture, in base64 or as lists of pixels; shape (K, H, W), and its width and height as sent."""
        if isinstance(item, str):
            return images.decode_base64_image(item, words, budget)
        if not isinstance(item, list):
            raise InvalidType(f"row {index} is a {json_type(item)}; send a picture in base64, or lists of pixels")
        _check_integers(item, index)
        array = to_array(item, self._datatype)
        grey, full = (words.height, words.width), (words.channels, words.height, words.width)
        if array.shape != full and not (words.channels == 1 and array.shape == grey):
            raise InvalidShape(f"row {index} has shape {list(array.shape)}; this model takes {list(full)}")
        return array.reshape(full), (words.width, words.height)

    def _tokenize(self, item: Any, index: int, words: TextInput) -> Encoding:
        """One text, or one with a marked predicate, as tokens."""
        assert self._tokeniser is not None
        if words.has_predicate:
            _check_predicate(item, index)
        elif not isinstance(item, str):
            raise InvalidType(f"row {index} is a {json_type(item)}; send a text")
        tokens = tokenize_row(self._tokeniser, item)
        if self._answer == "text":
            # What comes next depends on the end of what came before.
            return Encoding(tokens.ids[-words.max_tokens :] or [1], tokens.offsets[-words.max_tokens :] or [(0, 0)])
        # A label can be told from the beginning, as in training; spans of what was cut off cannot.
        if self._answer == "spans" and len(tokens.ids) > words.max_tokens:
            raise PayloadTooLarge(
                f"row {index} has {len(tokens.ids)} tokens; the limit is {words.max_tokens}; send it in parts"
            )
        return truncate_tokens(tokens, words.max_tokens)

    def _encode_series(self, item: Any, index: int, words: SeriesInput) -> Array:
        """One series of steps; shape (T, F)."""
        if not isinstance(item, list) or not item:
            raise InvalidType(f"row {index} is {json_type(item)} or empty; send a list of steps")
        single = len(words.features) == 1
        steps = [[step] if single and not isinstance(step, list) else step for step in item]
        for place, step in enumerate(steps):
            if not isinstance(step, list) or any(type(value) not in (int, float) for value in step):
                raise InvalidType(
                    f"row {index}: step {place} is no list of numbers; send one for each of {words.features}"
                )
        if len(steps) > words.max_time_steps:
            raise PayloadTooLarge(
                f"row {index} has {len(steps)} steps; the limit is {words.max_time_steps}; send the last ones"
            )
        array = to_array(steps, self._datatype)
        if array.shape != (len(steps), len(words.features)):
            raise InvalidShape(f"row {index} has steps of {array.shape[1]} numbers; this model takes {words.features}")
        return array


def _check_predicate(item: Any, index: int) -> None:
    form = 'send {"text": "...", "predicate": [start, end]}, in characters'
    if not isinstance(item, dict) or item.keys() != {"text", "predicate"} or not isinstance(item["text"], str):
        raise InvalidType(f"row {index} is no text with a predicate; {form}")
    place = item["predicate"]
    if not isinstance(place, list) or len(place) != 2 or any(type(value) is not int for value in place):
        raise InvalidType(f"row {index}: predicate is {place!r}; {form}")
    if not 0 <= place[0] < place[1] <= len(item["text"]):
        raise InvalidShape(
            f"row {index}: predicate {place} is not inside a text of {len(item['text'])} characters; {form}"
        )


def _check_integers(item: Any, index: int) -> None:
    """Numpy would take a boolean, a text of digits or a fraction for a pixel."""
    pending = [item]
    while pending:
        for value in pending.pop():
            if type(value) is list:
                pending.append(value)
            elif type(value) is not int:
                raise InvalidType(f"row {index} has a {json_type(value)} among its pixels; send integers 0 to 255")


def json_type(value: Any) -> str:
    """What JSON calls a value's type."""
    names: dict[type, str] = {
        dict: "object",
        list: "list",
        str: "text",
        bool: "boolean",
        int: "number",
        float: "number",
    }
    return names.get(type(value), "null")
