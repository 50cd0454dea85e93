"""One OpenAPI description of the whole platform: the management paths, and each deployed model in its own words."""

import json
import math
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deployments import schemas
from deployments.catalogue import Catalogue
from deployments.codec import oip
from deployments.codec.arrays import NUMPY
from deployments.pipelines import schemas as pipeline_schemas
from deployments.pipelines.deployment import PipelineEndpoint
from deployments.spec import Deployment
from training.bundle import Manifest, TensorSpec
from training.words import ImageWords, TextWords

VERSION = version("shoal")

Schema = dict[str, Any]

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "request_id": {"type": ["string", "null"]},
            },
        }
    },
}
_OIP_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_BINARY = (
    "In its binary form JSON comes first, as many bytes as the header Inference-Header-Content-Length says, where an "
    "input has parameters.binary_data_size in the place of data; its values follow as that many raw bytes, row-major "
    "and little-endian. With parameters.binary_data_output true, or binary_data at an output, so comes the answer."
)


def describe(api: FastAPI, catalogue: Catalogue) -> Schema:
    """Describe the paths of the control application and of every deployed model."""
    document = get_openapi(title="Shoal", version=VERSION, routes=api.routes)
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    components.setdefault("schemas", {}).update({"Error": _ERROR, "OipError": _OIP_ERROR})
    document["security"] = [{"key": []}]
    for path, item in document["paths"].items():
        if path.startswith("/v2/health/"):
            for operation in item.values():
                operation["security"] = []
    for deployment, manifest, example in catalogue.served():
        document["paths"] |= model_paths(deployment, manifest, example)
    for pipeline in catalogue.pipelines():
        document["paths"] |= pipeline_paths(pipeline.endpoint)
    return document


def model_paths(deployment: Deployment, manifest: Manifest, example: Schema) -> Schema:
    """Describe one deployed model's own paths."""
    base, tag = f"/v2/models/{manifest.name}", [f"model: {manifest.name}"]
    about = f"{manifest.summary} Version {deployment.endpoint.version}.".strip()
    predict = _operation(
        f"{manifest.name}: predict",
        about,
        tag,
        _predict_body(manifest, example),
        schemas.answer(manifest),
        "Error",
    )
    if manifest.answer.kind == "continuation":
        said = f'With "stream": true, server-sent events: {json.dumps(schemas.events(manifest))}'
        predict["responses"]["200"]["content"]["text/event-stream"] = {
            "schema": {"type": "string", "description": said}
        }
    infer = _operation(
        f"{manifest.name}: infer",
        f"{about} Open Inference Protocol. {_BINARY}",
        tag,
        {
            "application/json": {"schema": _infer_request(manifest), "example": _infer_example(manifest)},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary", "description": _BINARY}},
        },
        _infer_response(manifest),
        "OipError",
    )
    return {
        f"{base}/predict": {"post": predict},
        f"/api/v1/models/{manifest.name}/predict": {"post": predict},
        f"{base}/infer": {"post": infer},
        f"{base}/example": {
            "get": _operation(f"{manifest.name}: an example request", about, tag, None, {"type": "object"}, "Error")
        },
        f"{base}/ready": {
            "get": _operation(f"{manifest.name}: ready", about, tag, None, {"type": "object"}, "OipError")
        },
        base: {"get": _operation(f"{manifest.name}: metadata", about, tag, None, {"type": "object"}, "OipError")},
    }


def pipeline_paths(endpoint: PipelineEndpoint) -> Schema:
    """Describe one deployed pipeline's own paths."""
    base, tag = f"/v2/models/{endpoint.name}", [f"pipeline: {endpoint.name}"]
    about = (
        f"{endpoint.pipeline.summary} A pipeline of {', '.join(endpoint.steps)}; version {endpoint.version}.".strip()
    )
    body, answer = pipeline_schemas.body(endpoint), pipeline_schemas.answer(endpoint)
    predict = {"post": _operation(f"{endpoint.name}: predict", about, tag, body, answer, "Error")}
    anything: Schema = {"type": "object"}
    return {
        f"{base}/predict": predict,
        f"/api/v1/models/{endpoint.name}/predict": predict,
        f"{base}/example": {
            "get": _operation(f"{endpoint.name}: an example request", about, tag, None, anything, "Error")
        },
        f"{base}/ready": {"get": _operation(f"{endpoint.name}: ready", about, tag, None, anything, "OipError")},
        base: {"get": _operation(f"{endpoint.name}: metadata", about, tag, None, anything, "OipError")},
    }


def _operation(summary: str, about: str, tags: list[str], content: Schema | None, answer: Schema, error: str) -> Schema:
    refused = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}}
    operation: Schema = {
        "summary": summary,
        "description": about,
        "tags": tags,
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}},
            "4XX": {"description": "Refused; the message says what, the rule and the remedy."} | refused,
            "503": {"description": "Too many requests at once; try again."} | refused,
            "504": {"description": "No answer in time."} | refused,
        },
    }
    if content is not None:
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _predict_body(manifest: Manifest, example: Schema) -> Schema:
    content: Schema = {"application/json": {"schema": schemas.request(manifest), "example": example}}
    if isinstance(manifest.words, ImageWords):
        for kind in ("image/png", "image/jpeg", "image/webp"):
            content[kind] = {"schema": {"type": "string", "format": "binary"}}
    return content


def _infer_request(manifest: Manifest) -> Schema:
    input_ = _tensor(manifest.inputs[0])
    # What may be said of an input is the size of its bytes, and here it has none.
    input_ |= {"additionalProperties": False, "properties": input_["properties"] | {"parameters": {"maxProperties": 0}}}
    if isinstance(manifest.words, TextWords) and not manifest.words.predicate:
        input_ = {"anyOf": [input_, _texts(manifest.inputs[0])]}
    return {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string"},
            "parameters": _parameters(oip.Parameters),
            "inputs": {"type": "array", "items": input_, "minItems": 1, "maxItems": 1},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"enum": [spec.name for spec in manifest.outputs]},
                        "parameters": _parameters(oip.OutputParameters),
                    },
                },
            },
        },
    }


def _parameters(kind: type[msgspec.Struct]) -> Schema:
    """The schema of parameters, as the codec reads them."""
    schema: Schema
    (schema,) = msgspec.json.schema_components([kind])[1].values()
    return schema


def _texts(spec: TensorSpec) -> Schema:
    """An input of texts in the place of tokens."""
    text: Schema = {"type": "string"}
    size = {"type": "integer", "minimum": 1}
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "additionalProperties": False,
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": "BYTES"},
            "shape": {"type": "array", "prefixItems": [size, {"const": 1}], "minItems": 1, "maxItems": 2},
            "data": {"anyOf": [{"type": "array", "items": text}, schemas.nested(text, (None, 1))]},
        },
    }


def _infer_example(manifest: Manifest) -> Schema:
    (spec,) = manifest.inputs
    shape = [1, *(max(size, 1) for size in spec.shape[1:])]
    zero = False if spec.datatype == "BOOL" else 0
    tensor = {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": [zero] * math.prod(shape)}
    return {"inputs": [tensor]}


def _infer_response(manifest: Manifest) -> Schema:
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"const": manifest.name},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"anyOf": [_tensor(spec) for spec in manifest.outputs]}},
        },
    }


def _tensor(spec: TensorSpec) -> Schema:
    stored = NUMPY[spec.datatype]
    value: Schema = {"type": {"b": "boolean", "f": "number"}.get(stored.kind, "integer")}
    if stored.kind in "iu":
        value |= {"minimum": int(np.iinfo(stored).min), "maximum": int(np.iinfo(stored).max)}
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": spec.datatype},
            "shape": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1},
                "minItems": len(spec.shape),
                "maxItems": len(spec.shape),
                "description": f"{list(spec.shape)}; the first is the number of rows; -1 is any number.",
            },
            "data": {
                "description": "The values, flat in row-major order, or nested as the shape says.",
                "anyOf": [
                    {"type": "array", "items": value},
                    schemas.nested(value, tuple(None if size < 0 else size for size in spec.shape)),
                ],
            },
            "parameters": {"type": "object"},
        },
    }
