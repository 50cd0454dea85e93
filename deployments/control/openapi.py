"""The OpenAPI document of the whole service: how to call it, each deployed model, the catalog and health."""

import json
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deployments.access.caller import Caller
from deployments.access.scopes import Action
from deployments.control.catalog import Catalog
from deployments.control.infer_schemas import build_infer_example
from deployments.control.operations import (
    ERROR,
    HEADER_PARAMETERS,
    OIP_ERROR,
    RESPONSE_HEADERS,
    STABLE_PATH,
    VERSIONED_OPERATIONS,
    VERSIONED_PATH,
    build_error_responses,
    build_generic_body,
    build_model_paths,
    build_pipeline_paths,
    build_unready_response,
    complete_versioned_operation,
    describe_model,
    describe_pipeline,
    get_model_tag,
    get_pipeline_tag,
    link_operation,
)
from deployments.control.predict_schemas import JsonSchema, build_object_schema

VERSION = version("shoal")

STABLE_TAG, VERSIONS_TAG, CATALOG_TAG, SERVER_TAG = "stable address", "versions", "catalog", "server"
KEYS_TAG, USAGE_TAG = "keys", "usage"
_TAGS = {
    STABLE_TAG: "One address for each model, whatever serves it: through the control application, so slower than the "
    "model's own.",
    VERSIONS_TAG: "Every model's operations at the address of its version: a request for another version than the "
    "deployed one is refused. Bodies are those of the model's own operations.",
    CATALOG_TAG: "Published models with their versions, and deployed pipelines, with the status of each.",
    KEYS_TAG: "Tenants' API keys, for callers whose own key allows to manage them; no key makes one that may do more.",
    USAGE_TAG: "What tenants have used, each answered request counted once, for callers whose key allows to see it.",
    SERVER_TAG: "The service itself, by the Open Inference Protocol. Health checks need no key.",
}

# A longer example (an image, say) is fetched by the command instead of printed in it.
MAX_EXAMPLE_CHARACTERS = 400

_ERROR_SCHEMA = build_object_schema(
    error=build_object_schema(
        code={"type": "string"}, message={"type": "string"}, request_id={"type": ["string", "null"]}
    )
)
_OIP_ERROR_SCHEMA = build_object_schema(error={"type": "string"})


def build_openapi(api: FastAPI, catalog: Catalog, url: str, key_file: Path, caller: Caller) -> JsonSchema:
    """Build the document.

    Args:
        api: the control application, whose routes are the management paths.
        catalog: what is deployed.
        url: of the service, for the example command.
        key_file: holds the admin key; for the same.
        caller: who asks; of models and pipelines, those are in it that the caller may read.
    """
    models = [each for each in catalog.list_deployed_models() if caller.may(Action.READ, each.deployment.name)]
    pipelines = [each.endpoint for each in catalog.list_pipelines() if caller.may(Action.READ, each.name)]
    examples = {model.manifest.name: model.example for model in models}
    tags = {get_model_tag(each.manifest.name): describe_model(each.deployment, each.manifest) for each in models}
    tags |= {get_pipeline_tag(each.name): describe_pipeline(each) for each in pipelines}
    document = get_openapi(
        title="Shoal",
        version=VERSION,
        description=_build_description(url, key_file, examples),
        tags=[{"name": name, "description": description} for name, description in (tags | _TAGS).items()],
        routes=api.routes,
    )
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    components.setdefault("schemas", {}).update({ERROR: _ERROR_SCHEMA, OIP_ERROR: _OIP_ERROR_SCHEMA})
    document["security"] = [{"key": []}]
    _complete_management_paths(document["paths"])
    if models:
        name, deployed_version = models[0].manifest.name, str(models[0].deployment.endpoint.version)
        bodies = {"/predict": models[0].example, "/infer": build_infer_example(models[0].manifest)}
        _add_examples(document["paths"], {"name": name, "version": deployed_version}, bodies)
    for model in models:
        document["paths"] |= build_model_paths(*model)
    for endpoint in pipelines:
        document["paths"] |= build_pipeline_paths(endpoint)
    components["parameters"], components["headers"] = HEADER_PARAMETERS, RESPONSE_HEADERS
    _add_headers(document["paths"])
    return document


def _build_description(url: str, key_file: Path, examples: dict[str, dict[str, Any]]) -> str:
    """Describe how to call a model: authentication, an example command, and which operation is for what."""
    name = min(examples, key=lambda each: len(json.dumps(examples[each])), default="NAME")
    body = json.dumps(examples.get(name, {"inputs": ["..."]}))
    key_header = '-H "$KEY"'
    address = f"{url}/v2/models/{name}"
    fetch, data = "", shlex.quote(body)
    if len(body) > MAX_EXAMPLE_CHARACTERS:
        fetch, data = f"curl -s {key_header} {address}/example |\n  ", "@-"
    predict, infer = "predict", "infer"
    if examples:
        tag = get_model_tag(name)
        predict = link_operation(tag, f"{name}-predict", predict)
        infer = link_operation(tag, f"{name}-infer", infer)
    return f"""\
Every request carries a key in the header `Authorization: Bearer KEY`; health checks need none. The admin key is in
`{key_file}` on the cluster's head node (`shoal up` prints the path). A browser opens this page
with any user name, and the key as the password; to call a model from the page, press **Authorize** and give the key.

Call a model, at the address of this page:

```sh
KEY="Authorization: Bearer $(cat {shlex.quote(str(key_file))})"
{fetch}curl -s {key_header} -H 'Content-Type: application/json' -d {data} {address}/predict
```

- {predict} takes and returns rows in the JSON form of the model's task: records, texts, series or images in; labels,
  numbers, spans, boxes, texts or images out. `GET /v2/models/NAME/example` returns a valid request.
- {infer} takes and returns tensors, by the [Open Inference Protocol](https://github.com/kserve/open-inference-protocol),
  as JSON or in binary form; its clients (tritonclient) work unchanged, over gRPC too.

Each model and pipeline is listed once, with the operations at its own address. They are the same at the address of a
version: see **{VERSIONS_TAG}**.

An error is `{{"error": {{"code", "message", "request_id"}}}}`, or on paths of the Open Inference Protocol
`{{"error": "message"}}`.
"""


def _complete_management_paths(paths: JsonSchema) -> None:
    """Add what FastAPI does not know of the control application's paths: public paths, bodies, our own errors."""
    for path, item in paths.items():
        for operation in item.values():
            if path.startswith("/v2/health/"):
                operation["security"] = []
            # FastAPI's own form of the error for invalid parameters and bodies; they get ours.
            operation["responses"].pop("422", None)
            operation["responses"] |= build_error_responses(OIP_ERROR if path.startswith("/v2") else ERROR)
    for path in ("/v2/health/ready", "/v2/health/started"):
        paths[path]["get"]["responses"]["503"] = build_unready_response()
    predict = paths[STABLE_PATH]["post"]
    predict["requestBody"] = build_generic_body()
    predict["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    for end, (method, _) in VERSIONED_OPERATIONS.items():
        complete_versioned_operation(paths[VERSIONED_PATH + end][method.lower()], end)


def _add_headers(paths: JsonSchema) -> None:
    """Refer to the headers that each request which computes something, and its response, may have."""
    response_headers = {name: {"$ref": f"#/components/headers/{name}"} for name in RESPONSE_HEADERS}
    references = [{"$ref": f"#/components/parameters/{name}"} for name in HEADER_PARAMETERS]
    for path, item in paths.items():
        if path.endswith(("/predict", "/infer")):
            item["post"]["parameters"] = [*item["post"].get("parameters", ()), *references]
            item["post"]["responses"]["200"]["headers"] = response_headers


def _add_examples(paths: JsonSchema, parameters: dict[str, str], bodies: dict[str, dict[str, Any]]) -> None:
    """Add a deployed model's parameters and requests as examples, which work as they are.

    Args:
        paths: of the control application.
        parameters: of the model, by name.
        bodies: of the model, by the end of the path.
    """
    for path, item in paths.items():
        if "{name}" not in path:
            continue
        for operation in item.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in parameters:
                    parameter["example"] = parameters[parameter["name"]]
            if "requestBody" in operation:
                body = bodies["/" + path.rpartition("/")[2]]
                operation["requestBody"]["content"]["application/json"]["example"] = body
