"""What each model takes and gives, in the words of its task, as JSON Schema; for the one OpenAPI document."""

from typing import Any

import msgspec

from deployments.protocols.predict.outputs import BOUNDS, REQUESTS
from training.bundle.manifest import Manifest
from training.schema import (
    BoxOutput,
    ClassOutput,
    Feature,
    ImageInput,
    InputSchema,
    NumberOutput,
    OutputSchema,
    SeriesInput,
    SpanOutput,
    TableInput,
    TextOutput,
)

Schema = dict[str, Any]

_NUMBER: Schema = {"type": "number"}
_SCORE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_FILE: Schema = {"type": "string", "format": "byte", "description": "A PNG, JPEG or WebP file in base64."}


def predict_request_schema(manifest: Manifest) -> Schema:
    """The body of `predict`."""
    properties: Schema = {}
    for field in msgspec.structs.fields(REQUESTS[manifest.output_schema.kind]):
        if field.name == "inputs":
            properties["inputs"] = {"type": "array", "minItems": 1, "items": row_schema(manifest.input_schema)}
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
    if manifest.output_schema.kind == "image":
        return found | {"anyOf": [{"required": ["inputs"]}, {"required": ["samples"]}]}
    return found | {"required": ["inputs"]}


def predict_response_schema(manifest: Manifest) -> Schema:
    """What `predict` gives."""
    return _object(
        model={"const": manifest.name},
        version={"type": "string"},
        predictions={"type": "array", "items": prediction_schema(manifest.output_schema)},
    )


def event_schema(manifest: Manifest) -> Schema:
    """What `predict` gives as a stream: an object for each event, by the event's name."""
    place = {"type": "integer", "minimum": 0}
    return _object(
        token=_object(row=place, text={"type": "string"}),
        done=predict_response_schema(manifest),
        error={"type": "object"},
    )


def row_schema(words: InputSchema) -> Schema:
    """One of `inputs`."""
    if isinstance(words, TableInput):
        values = [_feature_schema(feature, words.allow_missing) for feature in words.features]
        record = {
            "type": "object",
            "required": [] if words.allow_missing else list(words.feature_names),
            "additionalProperties": False,
            "properties": dict(zip(words.feature_names, values, strict=True)),
        }
        count = len(values)
        return {"oneOf": [record, {"type": "array", "prefixItems": values, "minItems": count, "maxItems": count}]}
    if isinstance(words, ImageInput):
        pixel = {"type": "integer", "minimum": 0, "maximum": 255}
        shapes = [(words.channels, words.height, words.width)] + [(words.height, words.width)] * (words.channels == 1)
        return {"oneOf": [_FILE, *(nested_array_schema(pixel, shape) for shape in shapes)]}
    if isinstance(words, SeriesInput):
        step = nested_array_schema(_NUMBER, (len(words.features),)) | {"description": ", ".join(words.features)}
        return {"type": "array", "minItems": 1, "maxItems": words.max_time_steps, "items": step}
    text = {"type": "string", "description": f"Read up to {words.max_tokens} tokens."}
    if not words.has_predicate:
        return text
    place = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}
    return _object(text=text, predicate=place) | {"additionalProperties": False}


def nested_array_schema(value: Schema, shape: tuple[int | None, ...]) -> Schema:
    """Lists of lists of a value, as a shape says; None for any length."""
    for size in reversed(shape):
        value = {"type": "array", "items": value} | ({} if size is None else {"minItems": size, "maxItems": size})
    return value


def _feature_schema(feature: Feature, missing: bool) -> Schema:
    if feature.categories:
        return {"enum": [*feature.categories, *([None] if missing else [])]}
    return {"type": ["number", "null"]} if missing else _NUMBER


def prediction_schema(answer_: OutputSchema) -> Schema:
    """One of `predictions`."""
    if isinstance(answer_, ClassOutput):
        label = {"type": "string", "enum": list(answer_.labels)}
        scores = {"type": "object", "additionalProperties": _SCORE, "propertyNames": label}
        return _object(label=label, score=_SCORE, scores=scores)
    if isinstance(answer_, NumberOutput):
        return _object(**{answer_.name: _NUMBER})
    if isinstance(answer_, SpanOutput):
        place = {"type": "integer", "minimum": 0}
        label = {"enum": list(answer_.labels)}
        span = _object(start=place, end=place, label=label, text={"type": "string"})
        return _object(spans={"type": "array", "items": span})
    if isinstance(answer_, BoxOutput):
        box = _object(label={"enum": list(answer_.labels)}, score=_SCORE, box=nested_array_schema(_NUMBER, (4,)))
        return _object(boxes={"type": "array", "items": box})
    if isinstance(answer_, TextOutput):
        return _object(text={"type": "string"})
    code = nested_array_schema(_NUMBER, (answer_.latent_size,))
    return {
        "oneOf": [_object(reconstruction=_FILE, latent=code, latent_log_variance=code), _object(sample=_FILE)],
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}
