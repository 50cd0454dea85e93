"""The task's own words: records, lists or pictures in, labels and scores out.

A request is {"inputs": [one item per row], "top_k": n}; for image models also the picture's own bytes.
"""
# Shapes: B rows of one request, F features, K channels, H height, W width, C classes.

from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from deployments.codec import images
from deployments.codec.arrays import Array, to_array
from deployments.errors import (
    Empty,
    MalformedBody,
    TooLarge,
    UnknownFeature,
    WrongContentType,
    WrongShape,
    WrongType,
)
from deployments.settings import Limits
from training.bundle import Manifest
from training.words import ImageWords, TableWords

IMAGE_TYPES = {"image/png", "image/jpeg", "image/webp"}
DEFAULT_TOP_K = 5


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[Any]
    top_k: int = DEFAULT_TOP_K


_REQUEST = msgspec.json.Decoder(_Request)
_ENCODER = msgspec.json.Encoder()


def json_body(value: dict[str, Any]) -> bytes:
    """Write a request body."""
    return _ENCODER.encode(value)


class Codec:
    """Reads and writes `predict` bodies for one model version."""

    def __init__(self, manifest: Manifest, version: str, limits: Limits) -> None:
        self._manifest, self._version, self._limits = manifest, version, limits
        self._words, self._labels = manifest.words, manifest.answer.labels
        self._datatype = manifest.inputs[0].datatype
        # numpy would cut a fraction off silently.
        self._numbers: tuple[type, ...] = (int, float) if self._datatype.startswith("FP") else (int,)

    def decode(self, body: bytes, content_type: str) -> tuple[Tensor, int]:
        """Read a request.

        Returns:
            The input tensor, shape (B, ...), and how many labels the caller wants.

        Raises:
            ClientError: one of many; see deployments.errors.
        """
        kind = content_type.partition(";")[0].strip().lower()
        if kind in IMAGE_TYPES and isinstance(self._words, ImageWords):
            pixels = images.from_bytes(body, self._words, images.PixelBudget(self._limits.max_image_pixels))
            return torch.from_numpy(np.ascontiguousarray(pixels[None])), DEFAULT_TOP_K
        if kind not in ("application/json", ""):
            also = ", ".join(sorted(IMAGE_TYPES)) if isinstance(self._words, ImageWords) else "nothing else"
            raise WrongContentType(f"content type {kind!r}; send application/json or {also}")
        try:
            request = _REQUEST.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise MalformedBody(f'the body is not {{"inputs": [...]}}: {said}') from None
        if not request.inputs:
            raise Empty("inputs is empty; send one row at least")
        if len(request.inputs) > self._limits.max_rows:
            raise TooLarge(f"{len(request.inputs)} rows; the limit is {self._limits.max_rows}; send several requests")
        if request.top_k < 1:
            raise WrongType(f"top_k is {request.top_k}; make it 1 or more")
        budget = images.PixelBudget(self._limits.max_image_pixels)
        if isinstance(self._words, ImageWords):
            rows = [self._image(item, index, budget) for index, item in enumerate(request.inputs)]
        else:
            rows = [self._record(item, index) for index, item in enumerate(request.inputs)]
        return torch.from_numpy(np.stack(rows)), request.top_k

    def encode(self, y_BC: Tensor, top_k: int) -> bytes:
        """Write an answer from logits."""
        scores_BC = torch.softmax(y_BC.float(), 1)
        best_scores, best = scores_BC.topk(min(top_k, len(self._labels)), dim=1)
        predictions = []
        for indexes, scores in zip(best.tolist(), best_scores.tolist(), strict=True):
            named = [(self._labels[index], score) for index, score in zip(indexes, scores, strict=True)]
            predictions.append({"label": named[0][0], "score": named[0][1], "scores": dict(named)})
        return _ENCODER.encode({"model": self._manifest.name, "version": self._version, "predictions": predictions})

    def _record(self, item: Any, index: int) -> Array:
        """One row of a table, by name or in order; shape (F,)."""
        words = self._words
        assert isinstance(words, TableWords)
        if isinstance(item, dict):
            missing = [name for name in words.features if name not in item]
            extra = [name for name in item if name not in words.features]
            if missing or extra:
                raise UnknownFeature(
                    f"row {index}: missing {missing or 'none'}, unknown {extra or 'none'}; "
                    f"this model takes {list(words.features)}"
                )
            item = [item[name] for name in words.features]
        if not isinstance(item, list):
            raise WrongType(f"row {index} is a {_json_type(item)}; send an object by feature name, or a list")
        if len(item) != len(words.features):
            raise WrongShape(f"row {index} has {len(item)} values; this model takes {len(words.features)}")
        for name, value in zip(words.features, item, strict=True):
            if type(value) not in self._numbers:
                kind = "a number" if float in self._numbers else "an integer"
                raise WrongType(f"row {index}: {name!r} is a {_json_type(value)}; send {kind}")
        return to_array(item, self._datatype)

    def _image(self, item: Any, index: int, budget: images.PixelBudget) -> Array:
        """One picture, in base64 or as lists of pixels; shape (K, H, W)."""
        words = self._words
        assert isinstance(words, ImageWords)
        if isinstance(item, str):
            return images.from_base64(item, words, budget)
        if not isinstance(item, list):
            raise WrongType(f"row {index} is a {_json_type(item)}; send a picture in base64, or lists of pixels")
        _only_integers(item, index)
        array = to_array(item, self._datatype)
        grey, full = (words.height, words.width), (words.channels, words.height, words.width)
        if array.shape != full and not (words.channels == 1 and array.shape == grey):
            raise WrongShape(f"row {index} has shape {list(array.shape)}; this model takes {list(full)}")
        return array.reshape(full)


def _only_integers(item: Any, index: int) -> None:
    """Numpy would take a boolean, a text of digits or a fraction for a pixel."""
    pending = [item]
    while pending:
        for value in pending.pop():
            if type(value) is list:
                pending.append(value)
            elif type(value) is not int:
                raise WrongType(f"row {index} has a {_json_type(value)} among its pixels; send integers 0 to 255")


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
