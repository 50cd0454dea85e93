"""The net's outputs to a person's words: labels with scores, numbers, spans, boxes, pictures."""
# Shapes: B rows, C classes, T tokens, P boxes, K channels, H height, W width, Z latent numbers.

import base64
import math
from typing import Any

import msgspec
import torch
from torch import Tensor

from deployments.errors import InferenceFailed
from training.bundle.manifest import Manifest
from training.data.bio_tags import decode_tags, tags_to_spans
from training.schema import BoxOutput, ClassOutput, ImageInput, ImageOutput, NumberOutput, SpanOutput, TextOutput

Outputs = tuple[Tensor, ...]
MAX_NEW_TOKENS = 1000


class ClassRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request for labels."""

    inputs: list[Any]
    top_k: int = 5


class PlainRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request that has nothing to choose."""

    inputs: list[Any]


class BoxRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request for boxes."""

    inputs: list[Any]
    min_score: float = 0.3


class TextRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request for text; temperature 0 takes the likeliest token each time, and a stream is sent while it grows."""

    inputs: list[Any]
    max_tokens: int = 100
    temperature: float = 0.8
    seed: int | None = None
    stream: bool = False


class ImageRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request to encode and reconstruct pictures, or for so many new ones."""

    inputs: list[Any] = []
    samples: int = 0
    seed: int | None = None


REQUESTS: dict[str, Any] = {
    "classes": ClassRequest,
    "number": PlainRequest,
    "spans": PlainRequest,
    "boxes": BoxRequest,
    "text": TextRequest,
    "image": ImageRequest,
}
# Bounds that are not the type's: name, least, most.
BOUNDS: dict[str, tuple[float, float]] = {
    "top_k": (1, 2**31),
    "min_score": (0.0, 1.0),
    "max_tokens": (1, MAX_NEW_TOKENS),
    "temperature": (0.0, 10.0),
    "samples": (0, 64),
    "seed": (0, 2**63 - 1),
}


def format_predictions(manifest: Manifest, outputs: Outputs, known: list[Any], request: Any) -> list[dict[str, Any]]:
    """Say a batch's outputs, one object for each row.

    Args:
        manifest: of the bundle.
        outputs: what the net gives.
        known: what the reader noted of each row.
        request: one of REQUESTS.

    Raises:
        NetRefused: a label's score or a number is not finite.
    """
    answer = manifest.output_schema
    if isinstance(answer, ClassOutput):
        return _format_labels(answer, outputs[0], request.top_k)
    if isinstance(answer, NumberOutput):
        return [{answer.name: _require_finite(value, row)} for row, value in enumerate(outputs[0].flatten().tolist())]
    if isinstance(answer, SpanOutput):
        return _format_spans(answer, outputs[0], known)
    if isinstance(answer, BoxOutput):
        assert isinstance(manifest.input_schema, ImageInput)
        return [
            _format_boxes(answer, manifest.input_schema, *row, request.min_score)
            for row in zip(outputs[0], known, strict=True)
        ]
    assert isinstance(answer, ImageOutput), (
        f"{TextOutput.__name__} is written token by token: see deployments.models.generation"
    )
    return [
        {"reconstruction": encode_png(picture), "latent": mean, "latent_log_variance": log_variance}
        for picture, mean, log_variance in zip(outputs[0], outputs[1].tolist(), outputs[2].tolist(), strict=True)
    ]


def encode_png(picture: Tensor) -> str:
    """A picture (K, H, W) in 0..1 as a PNG file in base64."""
    words = ImageInput(height=picture.shape[1], width=picture.shape[2], mode="L" if len(picture) == 1 else "RGB")
    return base64.b64encode(words.encode_png((picture.clamp(0, 1) * 255).round().to(torch.uint8))).decode()


def _require_finite(value: float, row: int) -> float:
    """Give a value back; raises NetRefused for what JSON has no word for, as very large inputs lead to."""
    if not math.isfinite(value):
        raise InferenceFailed(f"row {row}: the net's answer is {value}; send values like those that it was trained on")
    return value


def _format_labels(answer: ClassOutput, y_BC: Tensor, top_k: int) -> list[dict[str, Any]]:
    scores_BC = torch.softmax(y_BC.float() / answer.temperature, 1)
    best_scores, best = scores_BC.topk(min(top_k, len(answer.labels)), dim=1)
    said = []
    for row, (indexes, scores) in enumerate(zip(best.tolist(), best_scores.tolist(), strict=True)):
        named = [(answer.labels[index], score) for index, score in zip(indexes, scores, strict=True)]
        # A NaN counts as the largest: where there is one, it comes first.
        _require_finite(scores[0], row)
        said.append({"label": named[0][0], "score": named[0][1], "scores": dict(named)})
    return said


def _format_spans(answer: SpanOutput, y_BTC: Tensor, known: list[Any]) -> list[dict[str, Any]]:
    counted_BT = torch.zeros(y_BTC.shape[:2], dtype=torch.bool)
    for counted_T, (_, tokens) in zip(counted_BT, known, strict=True):
        counted_T[: len(tokens.ids)] = torch.tensor([start != end for start, end in tokens.offsets])
    said = []
    for (item, tokens), tags in zip(known, decode_tags(y_BTC, counted_BT).tolist(), strict=True):
        text = item if isinstance(item, str) else item["text"]
        spans = tags_to_spans(tags[: len(tokens.ids)], tokens.offsets, answer.labels)
        said.append({"spans": [{"start": a, "end": b, "label": label, "text": text[a:b]} for a, b, label in spans]})
    return said


def _format_boxes(
    answer: BoxOutput, words: ImageInput, said_P6: Tensor, size: tuple[int, int], least: float
) -> dict[str, Any]:
    """Boxes in the pixels of the picture as it was sent."""
    wide, high = size[0] / words.width, size[1] / words.height
    boxes = []
    for x1, y1, x2, y2, score, label in said_P6.tolist():
        if score >= least:
            place = [x1 * wide, y1 * high, x2 * wide, y2 * high]
            boxes.append({"label": answer.labels[int(label)], "score": score, "box": place})
    return {"boxes": boxes}
