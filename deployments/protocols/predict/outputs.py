"""The net's outputs to predictions: labels with scores, numbers, spans, boxes, images."""
# Shapes: B rows, C classes, T tokens, P boxes, K channels, H height, W width, Z latent numbers.

import base64
import math
from typing import Any

import torch
from torch import Tensor

from deployments.errors import InferenceFailed
from training.bundle.manifest import Manifest
from training.data.bio_tags import decode_tags, tags_to_spans
from training.schema import BoxOutput, ClassOutput, ImageInput, ImageOutput, NumberOutput, SpanOutput, TextOutput


def format_predictions(
    manifest: Manifest, outputs: tuple[Tensor, ...], row_contexts: list[Any], options: Any
) -> list[dict[str, Any]]:
    """Format a batch's outputs, one prediction for each row.

    Args:
        manifest: of the bundle.
        outputs: of the net, each (B, ...).
        row_contexts: for each row, what its prediction needs besides; see InputPreprocessor.preprocess_items.
        options: the request's; one of requests.REQUEST_TYPES.

    Raises:
        InferenceFailed: a label's score or a number is not finite.
    """
    schema = manifest.output_schema
    if isinstance(schema, ClassOutput):
        return _format_labels(schema, outputs[0], options.top_k)
    if isinstance(schema, NumberOutput):
        return [{schema.name: _require_finite(value, row)} for row, value in enumerate(outputs[0].flatten().tolist())]
    if isinstance(schema, SpanOutput):
        return _format_spans(schema, outputs[0], row_contexts)
    if isinstance(schema, BoxOutput):
        assert isinstance(manifest.input_schema, ImageInput)
        return [
            _format_boxes(schema, manifest.input_schema, boxes_P6, size, options.min_score)
            for boxes_P6, size in zip(outputs[0], row_contexts, strict=True)
        ]
    assert isinstance(schema, ImageOutput), (
        f"{TextOutput.__name__} is generated token by token: see deployments.models.generation"
    )
    return [
        {"reconstruction": encode_base64_png(image_KHW), "latent": mean, "latent_log_variance": log_variance}
        for image_KHW, mean, log_variance in zip(outputs[0], outputs[1].tolist(), outputs[2].tolist(), strict=True)
    ]


def encode_base64_png(image_KHW: Tensor) -> str:
    """Encode an image (K, H, W) of values 0..1 as a PNG file in base64."""
    channels, height, width = image_KHW.shape
    schema = ImageInput(height=height, width=width, mode="L" if channels == 1 else "RGB")
    return base64.b64encode(schema.encode_png((image_KHW.clamp(0, 1) * 255).round().to(torch.uint8))).decode()


def _require_finite(value: float, row: int) -> float:
    """Return a value; raises InferenceFailed for NaN and infinity, which JSON cannot encode and huge inputs lead to."""
    if not math.isfinite(value):
        raise InferenceFailed(f"row {row}: the net's output is {value}; send values in the range of the training data")
    return value


def _format_labels(schema: ClassOutput, y_BC: Tensor, top_k: int) -> list[dict[str, Any]]:
    scores_BC = torch.softmax(y_BC.float() / schema.temperature, 1)
    top_scores, top_indexes = scores_BC.topk(min(top_k, len(schema.labels)), dim=1)
    predictions = []
    for row, (indexes, scores) in enumerate(zip(top_indexes.tolist(), top_scores.tolist(), strict=True)):
        # A NaN counts as the largest: where there is one, it comes first.
        _require_finite(scores[0], row)
        labels = [schema.labels[index] for index in indexes]
        predictions.append({"label": labels[0], "score": scores[0], "scores": dict(zip(labels, scores, strict=True))})
    return predictions


def _format_spans(schema: SpanOutput, y_BTC: Tensor, row_contexts: list[Any]) -> list[dict[str, Any]]:
    # Padding and special tokens cover no characters and are not part of a span.
    mask_BT = torch.zeros(y_BTC.shape[:2], dtype=torch.bool)
    for mask_T, (_, encoding) in zip(mask_BT, row_contexts, strict=True):
        mask_T[: len(encoding.ids)] = torch.tensor([start != end for start, end in encoding.offsets])
    predictions = []
    for (item, encoding), tags in zip(row_contexts, decode_tags(y_BTC, mask_BT).tolist(), strict=True):
        text = item if isinstance(item, str) else item["text"]
        spans = tags_to_spans(tags[: len(encoding.ids)], encoding.offsets, schema.labels)
        predictions.append(
            {
                "spans": [
                    {"start": start, "end": end, "label": label, "text": text[start:end]} for start, end, label in spans
                ]
            }
        )
    return predictions


def _format_boxes(
    schema: BoxOutput, image: ImageInput, boxes_P6: Tensor, size: tuple[int, int], min_score: float
) -> dict[str, Any]:
    """Format one row's boxes, in pixels of the image as it was sent."""
    x_scale, y_scale = size[0] / image.width, size[1] / image.height
    boxes = []
    for x1, y1, x2, y2, score, label in boxes_P6.tolist():
        if score >= min_score:
            box = [x1 * x_scale, y1 * y_scale, x2 * x_scale, y2 * y_scale]
            boxes.append({"label": schema.labels[int(label)], "score": score, "box": box})
    return {"boxes": boxes}
