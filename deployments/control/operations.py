"""OpenAPI operations of deployed models: each model and pipeline once, at its own address, with its real schemas.

The same operations at the address of a version are described once for all models (`VERSIONED_OPERATIONS`), since a
model's version changes only its weights and schemas, not its operations.
"""

import json
from typing import Any

from deployments.control.infer_schemas import (
    build_infer_example,
    build_infer_request_schema,
    build_infer_response_schema,
)
from deployments.control.pipeline_schemas import build_pipeline_request_schema, build_pipeline_response_schema
from deployments.control.predict_schemas import (
    JsonSchema,
    build_event_schema,
    build_predict_request_schema,
    build_predict_response_schema,
)
from deployments.pipelines.pipeline_plan import build_pipeline_signature
from deployments.protocols.predict.images import SERVED_MEDIA_TYPES
from deployments.server.scheduling import PRIORITIES, PRIORITY_HEADER, TIMEOUT_HEADER
from deployments.server.served import DIGEST_HEADER, MODEL_HEADER, NODES_HEADER, VERSION_HEADER
from deployments.specs.deployment import PipelineEndpoint
from deployments.specs.model_deployment import ModelDeployment
from training.bundle.manifest import Manifest
from training.schema import ImageInput

ERROR, OIP_ERROR = "Error", "OipError"
"""Names of the two error schemas among the document's components."""

STABLE_PATH = "/api/v1/models/{name}/predict"
VERSIONED_PATH = "/v2/models/{name}/versions/{version}"
VERSIONED_OPERATIONS = {
    "/predict": ("POST", "Predict in the task's JSON form"),
    "/infer": ("POST", "Infer with tensors"),
    "/example": ("GET", "Get an example request of predict"),
    "/ready": ("GET", "Check readiness"),
    "": ("GET", "Get metadata"),
}
"""What a model answers below its address: method and summary by the end of the path."""

HEADER_PARAMETERS: JsonSchema = {
    "RequestTimeout": {
        "name": TIMEOUT_HEADER.decode(),
        "in": "header",
        "description": "Seconds after which the response is worth nothing: what cannot come by then is refused at once "
        "(429), what has not come is not computed (504). The service's own limit holds anyway.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    "RequestPriority": {
        "name": PRIORITY_HEADER.decode(),
        "in": "header",
        "description": "`batch` is computed where interactive requests leave room, and refused first.",
        "schema": {"type": "string", "enum": [name.decode() for name in PRIORITIES], "default": "interactive"},
    },
    "RequestId": {
        "name": "x-request-id",
        "in": "header",
        "description": "For logs, traces and error responses, and returned; made by the service where there is none, "
        "or it has more than 128 characters, or others than letters, digits and ._:/+=@-.",
        "schema": {"type": "string"},
    },
}
"""Headers of the requests that compute something, by their names among the document's components."""

RESPONSE_HEADERS: JsonSchema = {
    header.decode(): {"description": description, "schema": {"type": "string"}}
    for header, description in (
        (MODEL_HEADER, "The model or pipeline that answered."),
        (VERSION_HEADER, "Its version that answered."),
        (DIGEST_HEADER, "The sha256 of its bundle's manifest, and through it of every file; not of a pipeline."),
        (NODES_HEADER, "Of a pipeline: NAME:VERSION of what its nodes were in this answer, separated by commas."),
    )
}
"""Headers of the responses that something computed, by their names, which they have among the components too."""

_OBJECT: JsonSchema = {"type": "object"}
_BINARY: JsonSchema = {"schema": {"type": "string", "format": "binary"}}
_BINARY_FORM = (
    "In the binary form the body begins with JSON, whose length in bytes is in the header "
    "Inference-Header-Content-Length. There an input has parameters.binary_data_size in the place of data, and its "
    "values follow the JSON as raw bytes, row-major and little-endian. With parameters.binary_data_output, or "
    "binary_data at an output, the response has the same form."
)


def build_model_paths(deployment: ModelDeployment, manifest: Manifest, example: dict[str, Any]) -> JsonSchema:
    """Build the paths of a deployed model."""
    name, tag = manifest.name, get_model_tag(manifest.name)
    about = f"{manifest.summary} Version {deployment.endpoint.version}.".strip()
    content = {"application/json": {"schema": build_predict_request_schema(manifest), "example": example}}
    predict = build_operation(
        f"{name}-predict",
        "Predict",
        f"{about} Rows and predictions in the JSON form of the task, {manifest.task}; for the same in tensors see "
        f"{link_operation(tag, f'{name}-infer', 'infer')}.",
        tag,
        build_predict_response_schema(manifest),
        content | (_build_image_content() if isinstance(manifest.input_schema, ImageInput) else {}),
    )
    if manifest.output_schema.kind == "text":
        description = f'With "stream": true, server-sent events: {json.dumps(build_event_schema(manifest))}'
        predict["responses"]["200"]["content"]["text/event-stream"] = {
            "schema": {"type": "string", "description": description}
        }
    infer = build_operation(
        f"{name}-infer",
        "Infer",
        f"{about} Tensors, by the Open Inference Protocol; for rows in JSON see "
        f"{link_operation(tag, f'{name}-predict', 'predict')}. {_BINARY_FORM}",
        tag,
        build_infer_response_schema(manifest),
        {
            "application/json": {
                "schema": build_infer_request_schema(manifest),
                "example": build_infer_example(manifest),
            },
            "application/octet-stream": _BINARY,
        },
        error=OIP_ERROR,
    )
    infer["responses"]["200"]["content"]["application/octet-stream"] = _BINARY
    base = f"/v2/models/{name}"
    return {f"{base}/predict": {"post": predict}, f"{base}/infer": {"post": infer}} | _build_get_paths(name, tag)


def build_pipeline_paths(endpoint: PipelineEndpoint) -> JsonSchema:
    """Build the paths of a deployed pipeline."""
    name, tag, signature = endpoint.name, get_pipeline_tag(endpoint.name), build_pipeline_signature(endpoint)
    schema = build_pipeline_request_schema(signature)
    content = {"application/json": {"schema": schema, "example": {"inputs": [signature.example]}}}
    predict = build_operation(
        f"{name}-predict",
        "Predict",
        f"{endpoint.pipeline.summary} Calls {', '.join(endpoint.signatures)}. Version {endpoint.version}.".strip(),
        tag,
        build_pipeline_response_schema(name, signature),
        content | (_build_image_content() if isinstance(signature.inputs[0], ImageInput) else {}),
    )
    return {f"/v2/models/{name}/predict": {"post": predict}} | _build_get_paths(name, tag)


def describe_model(deployment: ModelDeployment, manifest: Manifest) -> str:
    """Describe a model for its heading on the page."""
    endpoint = deployment.endpoint
    addresses = _describe_addresses(endpoint.name, endpoint.version)
    return f"{manifest.summary} Task: {manifest.task}. {addresses}".strip()


def describe_pipeline(endpoint: PipelineEndpoint) -> str:
    """Describe a pipeline for its heading on the page."""
    return f"{endpoint.pipeline.summary} {_describe_addresses(endpoint.name, endpoint.version)}".strip()


def get_model_tag(name: str) -> str:
    """Get the tag of a model's operations."""
    return f"model: {name}"


def get_pipeline_tag(name: str) -> str:
    """Get the tag of a pipeline's operations."""
    return f"pipeline: {name}"


def link_operation(tag: str, operation_id: str, text: str) -> str:
    """Link to an operation on the page (Swagger UI's deep links)."""
    return f"[{text}](#/{tag.replace(' ', '%20')}/{operation_id})"


def build_operation(
    operation_id: str,
    summary: str,
    description: str,
    tag: str,
    response: JsonSchema,
    content: JsonSchema | None = None,
    *,
    error: str = ERROR,
) -> JsonSchema:
    """Build an operation.

    Args:
        operation_id: unique in the document.
        summary: a few words.
        description: what it takes and returns.
        tag: the heading that it belongs to.
        response: schema of the response's JSON body.
        content: request bodies by content type; None where it takes none.
        error: name of the schema of its errors.
    """
    operation: JsonSchema = {
        "operationId": operation_id,
        "summary": summary,
        "description": description,
        "tags": [tag],
        "responses": {"200": {"description": "Success."} | wrap_json(response)} | build_error_responses(error),
    }
    if content is not None:
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def build_error_responses(error: str) -> JsonSchema:
    """Build the responses that every operation may have."""
    body = wrap_json({"$ref": f"#/components/schemas/{error}"})
    return {
        "4XX": {"description": "Refused; the message gives the value, the rule and the remedy."} | body,
        "429": {"description": "Too many requests to answer this one in time; try again after Retry-After."} | body,
        "503": {"description": "No replica is available; try again."} | body,
        "504": {"description": "No response within the time limit."} | body,
    }


def complete_versioned_operation(operation: JsonSchema, end: str) -> None:
    """Add to an operation at a version's address what FastAPI does not know: bodies, and the errors of the path."""
    error = ERROR if end in ("/predict", "/example") else OIP_ERROR
    success: JsonSchema = {"description": "Success."} | wrap_json(_OBJECT)
    operation["responses"] = {"200": success} | build_error_responses(error)
    binary_types = {
        "/predict": dict.fromkeys(SERVED_MEDIA_TYPES, _BINARY),
        "/infer": {"application/octet-stream": _BINARY},
    }
    if end in binary_types:
        operation["requestBody"] = build_generic_body() | {"required": True}
        operation["requestBody"]["content"] |= binary_types[end]
    if end == "/infer":
        success["content"] |= binary_types[end]
    if end == "/predict":
        success["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    if end == "/ready":
        operation["responses"]["503"] = build_unready_response()


def build_generic_body() -> JsonSchema:
    """Build the request body of any model: its inputs are described at the model's own operation."""
    schema = {"type": "object", "required": ["inputs"], "properties": {"inputs": {"type": "array"}}}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def build_unready_response() -> JsonSchema:
    """Build the response of a readiness check that fails."""
    return {"description": "Not ready."} | wrap_json(_OBJECT)


def wrap_json(schema: JsonSchema) -> JsonSchema:
    """Wrap a schema as the content of a JSON body."""
    return {"content": {"application/json": {"schema": schema}}}


def _build_get_paths(name: str, tag: str) -> JsonSchema:
    base = f"/v2/models/{name}"
    descriptions = {
        "/example": f"A valid request of {link_operation(tag, f'{name}-predict', 'predict')}.",
        "/ready": "Whether a replica is loaded and warm; of a pipeline also whether the models that it calls run.",
        "": "Name, versions, and input and output tensors, by the Open Inference Protocol.",
    }
    paths: JsonSchema = {}
    for end, description in descriptions.items():
        _, summary = VERSIONED_OPERATIONS[end]
        error = ERROR if end == "/example" else OIP_ERROR
        operation_id = f"{name}-{end.removeprefix('/') or 'metadata'}"
        paths[base + end] = {"get": build_operation(operation_id, summary, description, tag, _OBJECT, error=error)}
    paths[f"{base}/ready"]["get"]["responses"]["503"] = build_unready_response()
    return paths


def _describe_addresses(name: str, version: int) -> str:
    return (
        f"Version {version} is deployed: each operation is at `/v2/models/{name}/versions/{version}` as well, and "
        f"predict at `{STABLE_PATH.format(name=name)}`."
    )


def _build_image_content() -> JsonSchema:
    return dict.fromkeys(SERVED_MEDIA_TYPES, _BINARY)
