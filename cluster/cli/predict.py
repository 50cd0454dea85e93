"""HTTP calls that the command line makes of its own cluster, with the admin key."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from cluster.local import secrets
from cluster.local.lifecycle import Cluster
from cluster.settings import Settings
from deployments.client import CallError, Client, TextChunk
from deployments.errors import ClientError
from training.errors import ServiceError, UserError

IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def open_client(settings: Settings, cluster: Cluster) -> httpx.Client:
    """A client that holds the admin key."""
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    return httpx.Client(
        base_url=cluster.url,
        headers={"Authorization": f"Bearer {key}"},
        timeout=settings.limits.request_timeout_s + 5,
        trust_env=False,  # a proxy of the environment would be sent the key
    )


def predict(settings: Settings, cluster: Cluster, name: str, what: str) -> Any:
    """Ask a model; `what` is a picture's or a JSON file's path, or JSON itself.

    Raises:
        Mistake: it is none of these, or the service refuses it; the message is the service's.
        Failure: the service does not answer.
    """
    content, kind = _read_body(what)
    try:
        with open_client(settings, cluster) as http:
            answer = http.post(f"/v2/models/{name}/predict", content=content, headers={"Content-Type": kind})
    except httpx.TransportError as error:
        raise ServiceError(f"{cluster.url} does not answer: {error}") from error
    if answer.is_client_error and answer.headers.get("content-type") == "application/json":
        said = answer.json()["error"]
        raise UserError(said["message"] if isinstance(said, dict) else said)
    if answer.is_error:
        raise ServiceError(f"{answer.status_code}: {answer.text}")
    return answer.json()


def stream(settings: Settings, cluster: Cluster, name: str, what: str) -> Iterator[TextChunk] | None:
    """Ask a model as `predict` does, for pieces as they come; None if `what` does not ask for a stream.

    Raises:
        Mistake, Failure: as predict; later ones come with the pieces.
    """
    content, kind = _read_body(what)
    body = json.loads(content) if kind == "application/json" else None
    if not isinstance(body, dict) or body.pop("stream", False) is not True:
        return None
    return _stream_chunks(settings, cluster, name, body)


def print_stream(pieces: Iterator[TextChunk]) -> None:
    """Print pieces as they come; those of another row than the last begin a line with its number."""
    at = 0
    for row, text in pieces:
        sys.stdout.write(text if row == at else f"\n[{row}] {text}")
        sys.stdout.flush()
        at = row
    sys.stdout.write("\n")


def _stream_chunks(settings: Settings, cluster: Cluster, name: str, body: dict[str, Any]) -> Iterator[TextChunk]:
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    inputs = body.pop("inputs", [])
    try:
        with (
            Client(cluster.url, key, timeout=settings.limits.request_timeout_s + 5) as client,
            client.stream(name, inputs, **body) as pieces,
        ):
            yield from pieces
    except ClientError as error:
        raise UserError(error.message) from error
    except CallError as error:
        raise ServiceError(error.message) from error


def _is_file(what: str) -> bool:
    try:
        return Path(what).is_file()
    except OSError:  # a text too long to be a path
        return False


def _read_body(what: str) -> tuple[bytes, str]:
    if what.lstrip().startswith(("{", "[")):
        raw = what.encode()
    elif _is_file(what):
        kind = IMAGE_TYPES.get(Path(what).suffix.lower())
        raw = Path(what).read_bytes()
        if kind:
            return raw, kind
    else:
        raise UserError(
            f'{what[:80]!r} is neither a file nor JSON; give a picture, a JSON file, or {{"inputs": [...]}}'
        )
    try:
        json.loads(raw)
    except ValueError as error:
        raise UserError(f"{what[:60]!r} is not JSON: {error}") from error
    return raw, "application/json"
