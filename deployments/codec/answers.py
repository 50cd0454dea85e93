"""The net's outputs to a person's words: labels with scores, numbers, spans, boxes, pictures."""
# Shapes: B rows, C classes, T tokens, P boxes, K channels, H height, W width, Z latent numbers.

import base64
import math
from typing import Any

import msgspec
import torch
from torch import Tensor

from deployments.errors import NetRefused
from training.bio import likeliest, spans_of
from training.bundle import Manifest
from training.words import Boxes, Classes, Continuation, ImageWords, Number, Picture, Spans

Outputs = tuple[Tensor, ...]
MOST_NEW_TOKENS = 1000


class OfClasses(msgspec.Struct, forbid_unknown_fields=True):
    """A request for labels."""

    inputs: list[Any]
    top_k: int = 5


class OfNothingElse(msgspec.Struct, forbid_unknown_fields=True):
    """A request that has nothing to choose."""

    inputs: list[Any]


class OfBoxes(msgspec.Struct, forbid_unknown_fields=True):
    """A request for boxes."""

    inputs: list[Any]
    min_score: float = 0.3


class OfText(msgspec.Struct, forbid_unknown_fields=True):
    """A request for text; temperature 0 takes the likeliest token each time, and a stream is sent while it grows."""

    inputs: list[Any]
    max_tokens: int = 100
    temperature: float = 0.8
    seed: int | None = None
    stream: bool = False


class OfPictures(msgspec.Struct, forbid_unknown_fields=True):
    """A request to encode and reconstruct pictures, or for so many new ones."""

    inputs: list[Any] = []
    samples: int = 0
    seed: int | None = None


REQUESTS: dict[str, Any] = {
    "classes": OfClasses,
    "number": OfNothingElse,
    "spans": OfNothingElse,
    "boxes": OfBoxes,
    "continuation": OfText,
    "picture": OfPictures,
}
# Bounds that are not the type's: name, least, most.
BOUNDS: dict[str, tuple[float, float]] = {
    "top_k": (1, 2**31),
    "min_score": (0.0, 1.0),
    "max_tokens": (1, MOST_NEW_TOKENS),
    "temperature": (0.0, 10.0),
    "samples": (0, 64),
    "seed": (0, 2**63 - 1),
}


def predictions(manifest: Manifest, outputs: Outputs, known: list[Any], request: Any) -> list[dict[str, Any]]:
    """Say a batch's outputs, one object for each row.

    Args:
        manifest: of the bundle.
        outputs: what the net gives.
        known: what the reader noted of each row.
        request: one of REQUESTS.

    Raises:
        NetRefused: a label's score or a number is not finite.
    """
    answer = manifest.answer
    if isinstance(answer, Classes):
        return _labels(answer, outputs[0], request.top_k)
    if isinstance(answer, Number):
        return [{answer.name: _finite(value, row)} for row, value in enumerate(outputs[0].flatten().tolist())]
    if isinstance(answer, Spans):
        return _spans(answer, outputs[0], known)
    if isinstance(answer, Boxes):
        assert isinstance(manifest.words, ImageWords)
        return [_boxes(answer, manifest.words, *row, request.min_score) for row in zip(outputs[0], known, strict=True)]
    assert isinstance(answer, Picture), f"{Continuation.__name__} is written token by token: see deployments.generation"
    return [
        {"reconstruction": png(picture), "latent": mean, "latent_log_variance": log_variance}
        for picture, mean, log_variance in zip(outputs[0], outputs[1].tolist(), outputs[2].tolist(), strict=True)
    ]


def png(picture: Tensor) -> str:
    """A picture (K, H, W) in 0..1 as a PNG file in base64."""
    words = ImageWords(height=picture.shape[1], width=picture.shape[2], mode="L" if len(picture) == 1 else "RGB")
    return base64.b64encode(words.png((picture.clamp(0, 1) * 255).round().to(torch.uint8))).decode()


def _finite(value: float, row: int) -> float:
    """Give a value back; raises NetRefused for what JSON has no word for, as very large inputs lead to."""
    if not math.isfinite(value):
        raise NetRefused(f"row {row}: the net's answer is {value}; send values like those that it was trained on")
    return value


def _labels(answer: Classes, y_BC: Tensor, top_k: int) -> list[dict[str, Any]]:
    scores_BC = torch.softmax(y_BC.float() / answer.temperature, 1)
    best_scores, best = scores_BC.topk(min(top_k, len(answer.labels)), dim=1)
    said = []
    for row, (indexes, scores) in enumerate(zip(best.tolist(), best_scores.tolist(), strict=True)):
        named = [(answer.labels[index], score) for index, score in zip(indexes, scores, strict=True)]
        # A NaN counts as the largest: where there is one, it comes first.
        _finite(scores[0], row)
        said.append({"label": named[0][0], "score": named[0][1], "scores": dict(named)})
    return said


def _spans(answer: Spans, y_BTC: Tensor, known: list[Any]) -> list[dict[str, Any]]:
    counted_BT = torch.zeros(y_BTC.shape[:2], dtype=torch.bool)
    for counted_T, (_, tokens) in zip(counted_BT, known, strict=True):
        counted_T[: len(tokens.ids)] = torch.tensor([start != end for start, end in tokens.offsets])
    said = []
    for (item, tokens), tags in zip(known, likeliest(y_BTC, counted_BT).tolist(), strict=True):
        text = item if isinstance(item, str) else item["text"]
        spans = spans_of(tags[: len(tokens.ids)], tokens.offsets, answer.types)
        said.append({"spans": [{"start": a, "end": b, "label": label, "text": text[a:b]} for a, b, label in spans]})
    return said


def _boxes(answer: Boxes, words: ImageWords, said_P6: Tensor, size: tuple[int, int], least: float) -> dict[str, Any]:
    """Boxes in the pixels of the picture as it was sent."""
    wide, high = size[0] / words.width, size[1] / words.height
    boxes = []
    for x1, y1, x2, y2, score, label in said_P6.tolist():
        if score >= least:
            place = [x1 * wide, y1 * high, x2 * wide, y2 * high]
            boxes.append({"label": answer.labels[int(label)], "score": score, "box": place})
    return {"boxes": boxes}
