"""What each model takes and gives, in the words of its task, as JSON Schema; for the one OpenAPI document."""

from typing import Any

import msgspec

from deployments.codec.answers import BOUNDS, REQUESTS
from training.bundle import Manifest
from training.words import (
    Answer,
    Boxes,
    Classes,
    Continuation,
    Feature,
    ImageWords,
    Number,
    SeriesWords,
    Spans,
    TableWords,
    Words,
)

Schema = dict[str, Any]

_NUMBER: Schema = {"type": "number"}
_SCORE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_FILE: Schema = {"type": "string", "format": "byte", "description": "A PNG, JPEG or WebP file in base64."}


def request(manifest: Manifest) -> Schema:
    """The body of `predict`."""
    properties: Schema = {}
    for field in msgspec.structs.fields(REQUESTS[manifest.answer.kind]):
        if field.name == "inputs":
            properties["inputs"] = {"type": "array", "minItems": 1, "items": row(manifest.words)}
            continue
        if field.type is bool:
            properties[field.name] = {"type": "boolean", "default": field.default}
            continue
        least, most = BOUNDS[field.name]
        kind = "number" if isinstance(field.default, float) else "integer"
        properties[field.name] = {"type": kind, "minimum": least, "maximum": most}
        if field.default is None:
            properties[field.name]["type"] = [kind, "null"]
        else:
            properties[field.name]["default"] = field.default
    found: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    if manifest.answer.kind == "picture":
        return found | {"anyOf": [{"required": ["inputs"]}, {"required": ["samples"]}]}
    return found | {"required": ["inputs"]}


def answer(manifest: Manifest) -> Schema:
    """What `predict` gives."""
    return _object(
        model={"const": manifest.name},
        version={"type": "string"},
        predictions={"type": "array", "items": prediction(manifest.answer)},
    )


def events(manifest: Manifest) -> Schema:
    """What `predict` gives as a stream: an object for each event, by the event's name."""
    place = {"type": "integer", "minimum": 0}
    return _object(token=_object(row=place, text={"type": "string"}), done=answer(manifest), error={"type": "object"})


def row(words: Words) -> Schema:
    """One of `inputs`."""
    if isinstance(words, TableWords):
        values = [_feature(feature, words.missing) for feature in words.features]
        record = {
            "type": "object",
            "required": [] if words.missing else list(words.names),
            "additionalProperties": False,
            "properties": dict(zip(words.names, values, strict=True)),
        }
        count = len(values)
        return {"oneOf": [record, {"type": "array", "prefixItems": values, "minItems": count, "maxItems": count}]}
    if isinstance(words, ImageWords):
        pixel = {"type": "integer", "minimum": 0, "maximum": 255}
        shapes = [(words.channels, words.height, words.width)] + [(words.height, words.width)] * (words.channels == 1)
        return {"oneOf": [_FILE, *(nested(pixel, shape) for shape in shapes)]}
    if isinstance(words, SeriesWords):
        step = nested(_NUMBER, (len(words.features),)) | {"description": ", ".join(words.features)}
        return {"type": "array", "minItems": 1, "maxItems": words.max_steps, "items": step}
    text = {"type": "string", "description": f"Read up to {words.max_tokens} tokens."}
    if not words.predicate:
        return text
    place = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}
    return _object(text=text, predicate=place) | {"additionalProperties": False}


def nested(value: Schema, shape: tuple[int | None, ...]) -> Schema:
    """Lists of lists of a value, as a shape says; None for any length."""
    for size in reversed(shape):
        value = {"type": "array", "items": value} | ({} if size is None else {"minItems": size, "maxItems": size})
    return value


def _feature(feature: Feature, missing: bool) -> Schema:
    if feature.levels:
        return {"enum": [*feature.levels, *([None] if missing else [])]}
    return {"type": ["number", "null"]} if missing else _NUMBER


def prediction(answer_: Answer) -> Schema:
    """One of `predictions`."""
    if isinstance(answer_, Classes):
        label = {"type": "string", "enum": list(answer_.labels)}
        scores = {"type": "object", "additionalProperties": _SCORE, "propertyNames": label}
        return _object(label=label, score=_SCORE, scores=scores)
    if isinstance(answer_, Number):
        return _object(**{answer_.name: _NUMBER})
    if isinstance(answer_, Spans):
        place = {"type": "integer", "minimum": 0}
        label = {"enum": list(answer_.types)}
        span = _object(start=place, end=place, label=label, text={"type": "string"})
        return _object(spans={"type": "array", "items": span})
    if isinstance(answer_, Boxes):
        box = _object(label={"enum": list(answer_.labels)}, score=_SCORE, box=nested(_NUMBER, (4,)))
        return _object(boxes={"type": "array", "items": box})
    if isinstance(answer_, Continuation):
        return _object(text={"type": "string"})
    code = nested(_NUMBER, (answer_.latent,))
    return {
        "oneOf": [_object(reconstruction=_FILE, latent=code, latent_log_variance=code), _object(sample=_FILE)],
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}
