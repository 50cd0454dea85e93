"""JSON Schemas of `predict`: each model's request, response and events, from its input and output schemas."""

from typing import Any

import msgspec

from deployments.protocols.predict import events
from deployments.protocols.predict.requests import OPTION_BOUNDS, REQUEST_TYPES
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

JsonSchema = dict[str, Any]

_NUMBER: JsonSchema = {"type": "number"}
_SCORE: JsonSchema = {"type": "number", "minimum": 0, "maximum": 1}
_INDEX: JsonSchema = {"type": "integer", "minimum": 0}
_FILE: JsonSchema = {"type": "string", "format": "byte", "description": "A PNG, JPEG or WebP file in base64."}


def build_predict_request_schema(manifest: Manifest) -> JsonSchema:
    """Build the schema of a request's body."""
    properties: JsonSchema = {}
    for field in msgspec.structs.fields(REQUEST_TYPES[manifest.output_schema.kind]):
        if field.name == "inputs":
            properties["inputs"] = {"type": "array", "minItems": 1, "items": build_row_schema(manifest.input_schema)}
            continue
        if field.type is bool:
            properties[field.name] = {"type": "boolean", "default": field.default}
            continue
        minimum, maximum = OPTION_BOUNDS[field.name]
        number_type = "number" if isinstance(field.default, float) else "integer"
        properties[field.name] = {"type": number_type, "minimum": minimum, "maximum": maximum}
        if field.default is None:
            properties[field.name]["type"] = [number_type, "null"]
        else:
            properties[field.name]["default"] = field.default
    schema: JsonSchema = {"type": "object", "additionalProperties": False, "properties": properties}
    if manifest.output_schema.kind == "image":
        return schema | {"anyOf": [{"required": ["inputs"]}, {"required": ["samples"]}]}
    return schema | {"required": ["inputs"]}


def build_predict_response_schema(manifest: Manifest) -> JsonSchema:
    """Build the schema of a response's body."""
    return build_object_schema(
        model={"const": manifest.name},
        version={"type": "string"},
        predictions={"type": "array", "items": build_prediction_schema(manifest.output_schema)},
    )


def build_event_schema(manifest: Manifest) -> JsonSchema:
    """Build the schemas of a streamed response's events, by the event's name."""
    return build_object_schema(
        **{
            events.TOKEN: build_object_schema(row=_INDEX, text={"type": "string"}),
            events.DONE: build_predict_response_schema(manifest),
            events.ERROR: {"type": "object"},
        }
    )


def build_row_schema(schema: InputSchema) -> JsonSchema:
    """Build the schema of one of `inputs`."""
    if isinstance(schema, TableInput):
        values = [_build_feature_schema(feature, schema.allow_missing) for feature in schema.features]
        record = {
            "type": "object",
            "required": [] if schema.allow_missing else list(schema.feature_names),
            "additionalProperties": False,
            "properties": dict(zip(schema.feature_names, values, strict=True)),
        }
        count = len(values)
        return {"oneOf": [record, {"type": "array", "prefixItems": values, "minItems": count, "maxItems": count}]}
    if isinstance(schema, ImageInput):
        pixel = {"type": "integer", "minimum": 0, "maximum": 255}
        shapes: list[tuple[int, ...]] = [(schema.channels, schema.height, schema.width)]
        if schema.channels == 1:
            shapes.append((schema.height, schema.width))
        return {"oneOf": [_FILE, *(build_array_schema(pixel, shape) for shape in shapes)]}
    if isinstance(schema, SeriesInput):
        time_step = build_array_schema(_NUMBER, (len(schema.features),)) | {"description": ", ".join(schema.features)}
        return {"type": "array", "minItems": 1, "maxItems": schema.max_time_steps, "items": time_step}
    text = {"type": "string", "description": f"Truncated to {schema.max_tokens} tokens."}
    if not schema.has_predicate:
        return text
    predicate = {"type": "array", "items": _INDEX, "minItems": 2, "maxItems": 2}
    return build_object_schema(text=text, predicate=predicate) | {"additionalProperties": False}


def build_prediction_schema(schema: OutputSchema) -> JsonSchema:
    """Build the schema of one of `predictions`."""
    if isinstance(schema, ClassOutput):
        label = {"type": "string", "enum": list(schema.labels)}
        scores = {"type": "object", "additionalProperties": _SCORE, "propertyNames": label}
        return build_object_schema(label=label, score=_SCORE, scores=scores)
    if isinstance(schema, NumberOutput):
        return build_object_schema(**{schema.name: _NUMBER})
    if isinstance(schema, SpanOutput | BoxOutput):
        return build_object_schema(**{schema.kind: {"type": "array", "items": build_item_schema(schema)}})
    if isinstance(schema, TextOutput):
        return build_object_schema(text={"type": "string"})
    code = build_array_schema(_NUMBER, (schema.latent_size,))
    reconstruction = build_object_schema(reconstruction=_FILE, latent=code, latent_log_variance=code)
    return {"oneOf": [reconstruction, build_object_schema(sample=_FILE)]}


def build_item_schema(schema: SpanOutput | BoxOutput) -> JsonSchema:
    """Build the schema of one span or box."""
    label = {"enum": list(schema.labels)}
    if isinstance(schema, SpanOutput):
        return build_object_schema(start=_INDEX, end=_INDEX, label=label, text={"type": "string"})
    return build_object_schema(label=label, score=_SCORE, box=build_array_schema(_NUMBER, (4,)))


def build_array_schema(value: JsonSchema, shape: tuple[int | None, ...]) -> JsonSchema:
    """Build the schema of nested lists of this shape; None is any length."""
    for size in reversed(shape):
        value = {"type": "array", "items": value} | ({} if size is None else {"minItems": size, "maxItems": size})
    return value


def build_object_schema(**properties: JsonSchema) -> JsonSchema:
    """Build the schema of an object whose properties are all required."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _build_feature_schema(feature: Feature, allow_missing: bool) -> JsonSchema:
    if feature.categories:
        return {"enum": [*feature.categories, *([None] if allow_missing else [])]}
    return {"type": ["number", "null"]} if allow_missing else _NUMBER
