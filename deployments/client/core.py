"""What both clients do, without I/O: requests, responses, and when to retry.

A call is a generator: it yields effects (send a request, sleep) and is sent their results; sync_client.py and
async_client.py only perform them, so that each rule is written once.

Retries are not tenacity's. Its `Retrying` sleeps by itself, which a generator without I/O cannot let it do, and takes
11 us for a successful call (`for attempt in` 14 us; 9.2.1, this machine), where the whole client may add 200 us. Its
wait functions would replace one line, that of `backoff_s`, and add 5 ms to the import.
"""

import random
import ssl
import time
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple, TypeVar, get_origin
from urllib.parse import quote

import httpx
import msgspec
from numpy.typing import ArrayLike

from deployments import errors
from deployments.client import local, tensors
from deployments.client.inputs import Inputs, encode_predict
from deployments.client.tensors import Headers
from deployments.errors import CallError, ConnectionFailed, InvalidType, ProtocolError, ResponseTimeout, UnknownTensor
from deployments.protocols.arrays import Array
from deployments.protocols.oip.binary import HEADER_LENGTH
from deployments.protocols.predict import events
from deployments.protocols.predict.events import TextChunk
from deployments.server.scheduling import PRIORITIES, PRIORITY_HEADER, TIMEOUT_HEADER
from training.errors import UserError

T = TypeVar("T")

INITIAL_BACKOFF_S, MAX_BACKOFF_S = 0.1, 5.0
RETRYABLE_STATUSES = frozenset({429, 503})
DEFAULT_TIMEOUT_S = 30.0
"""Of a call, and of the service's own limit where nobody has set another one."""
# A call with so much less than the default says so: what would come too late is refused at once, or not computed.
TOLD_TIMEOUT_S = 0.5
_HEADER_LENGTH = HEADER_LENGTH.decode()


class Response(NamedTuple):
    """A response; of a stream that has begun, `body` is empty."""

    status: int
    headers: httpx.Headers
    body: bytes


class SendRequest(NamedTuple):
    """Effect: send a request and read its response before `deadline_s`, in seconds of time.monotonic()."""

    request: httpx.Request
    deadline_s: float


class Sleep(NamedTuple):
    """Effect: wait."""

    seconds: float


Effects = Generator[SendRequest | Sleep, Any, T]
"""A call: yields effects, is sent the Response of a SendRequest, and returns the call's result."""


class _Chunk(msgspec.Struct):
    row: int
    text: str


class ClientCore:
    """Every call as effects; has no connection. May be used by many threads at a time."""

    def __init__(
        self, base_url: str | None, key: str | None, timeout_s: float, retries: int, priority: str = "interactive"
    ) -> None:
        if timeout_s <= 0 or retries < 0:
            raise UserError(f"timeout={timeout_s}, retries={retries}; timeout must be above 0, retries at least 0")
        if priority.encode() not in PRIORITIES:
            raise UserError(f"priority={priority!r}; it is interactive, the default, or batch")
        self._priority = [(PRIORITY_HEADER, priority.encode())] if PRIORITIES[priority.encode()] else []
        self.base_url, key = local.find_service(base_url, key)
        self._timeout_s, self._retries = timeout_s, retries
        self._authorization = (b"authorization", b"Bearer " + key.encode())
        # httpx takes long to parse a URL, and a program calls few models.
        self._urls: dict[str, httpx.URL] = {}
        self._metadata: dict[tuple[str, int | None], dict[str, Any]] = {}

    def choose_verification(self, verify: "bool | str | ssl.SSLContext") -> "bool | str | ssl.SSLContext":
        """How to verify the service's certificate; `verify` is the caller's own choice."""
        if not self.base_url.startswith("https:"):
            return False
        return local.build_verification(self.base_url) if verify is True else verify

    def infer(
        self,
        name: str,
        inputs: ArrayLike | Mapping[str, ArrayLike],
        version: int | None,
        outputs: list[str] | None,
        use_binary: bool,
    ) -> Effects[dict[str, Array] | Array]:
        """See Client.infer."""
        if isinstance(inputs, Mapping):
            arrays = {key: tensors.to_array(values, key) for key, values in inputs.items()}
            return (yield from self._infer(name, version, *tensors.encode_request(arrays, outputs, use_binary)))
        metadata = yield from self._get_metadata(name, version)
        if len(metadata["inputs"]) != 1:
            names = [tensor["name"] for tensor in metadata["inputs"]]
            raise UserError(f"{name} takes {names}; send a dict of arrays by name")
        output_names = outputs or [tensor["name"] for tensor in metadata["outputs"]]
        if len(output_names) != 1:
            raise UserError(f"{name} returns {output_names}; name one of them in outputs=, or send a dict to get all")
        (tensor,) = metadata["inputs"]
        array = tensors.to_array(inputs, tensor["name"])
        arrays = {tensor["name"]: tensors.cast_to(array, tensor["datatype"])}
        datatypes = {tensor["name"]: tensor["datatype"]}
        request = tensors.encode_request(arrays, outputs, use_binary, datatypes)
        try:
            results = yield from self._infer(name, version, *request)
        except (UnknownTensor, InvalidType):
            # Another version may be deployed by now.
            self._metadata.pop((name, version), None)
            raise
        return results[output_names[0]]

    def _infer(self, name: str, version: int | None, body: bytes, headers: Headers) -> Effects[dict[str, Array]]:
        path = self._path(name, version, "/infer")
        response = yield from self._send("POST", path, body, headers)
        header_length = response.headers.get(_HEADER_LENGTH)
        try:
            return tensors.decode_response(response.body, int(header_length) if header_length else None)
        except (errors.ClientError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ProtocolError(f"{path}: the response is not an inference response: {error}") from error

    def _get_metadata(self, name: str, version: int | None) -> Effects[dict[str, Any]]:
        """Return a model's metadata, requested once."""
        metadata = self._metadata.get((name, version))
        if metadata is None:
            metadata = yield from self.metadata(name, version)
            if not all(_is_tensor_list(metadata.get(key)) for key in ("inputs", "outputs")):
                raise ProtocolError(f"{self._path(name, version, '')}: the response is no model's metadata")
            self._metadata[name, version] = metadata
        return metadata

    def predict(self, name: str, inputs: Inputs, version: int | None, options: Mapping[str, Any]) -> Effects[list[Any]]:
        """See Client.predict."""
        body, headers = encode_predict(inputs, options)
        path = self._path(name, version, "/predict")
        response = yield from self._send("POST", path, body, headers)
        return _decode_field(path, response.body, "predictions", list[Any])

    def stream(self, name: str, inputs: Inputs, version: int | None, options: Mapping[str, Any]) -> Effects[Response]:
        """Open a stream; returns once it has begun."""
        body, headers = encode_predict(inputs, {**options, "stream": True})
        headers = [*headers, (b"accept", b"text/event-stream")]
        return (yield from self._send("POST", self._path(name, version, "/predict"), body, headers))

    def models(self) -> Effects[list[Any]]:
        """See Client.models."""
        path = "/api/v1/models"
        response = yield from self._send("GET", path, b"", [])
        return _decode_field(path, response.body, "models", list[Any])

    def model(self, name: str) -> Effects[dict[str, Any]]:
        """See Client.model."""
        return (yield from self._get(f"/api/v1/models/{quote(name, safe='')}"))

    def metadata(self, name: str, version: int | None) -> Effects[dict[str, Any]]:
        """See Client.metadata."""
        return (yield from self._get(self._path(name, version, "")))

    def example(self, name: str, version: int | None) -> Effects[dict[str, Any]]:
        """See Client.example."""
        return (yield from self._get(self._path(name, version, "/example")))

    def ready(self, name: str, version: int | None) -> Effects[bool]:
        """See Client.ready."""
        try:
            path = self._path(name, version, "/ready")
            response = yield from self._send("GET", path, b"", [], retries=0)
        except CallError as error:
            if error.status in (404, 503):
                return False
            raise
        return _decode_field(path, response.body, "ready", bool)

    def _get(self, path: str) -> Effects[dict[str, Any]]:
        response = yield from self._send("GET", path, b"", [])
        return _decode_json(path, response.body, dict[str, Any])

    def _path(self, name: str, version: int | None, suffix: str) -> str:
        return f"/v2/models/{quote(name, safe='')}{'' if version is None else f'/versions/{version}'}{suffix}"

    def _send(
        self, method: str, path: str, body: bytes, headers: Headers, retries: int | None = None
    ) -> Effects[Response]:
        """Send a request, with retries, which are safe: inference changes nothing.

        Raises:
            CallError: the service's, or the client's own after the last attempt.
        """
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = httpx.URL(self.base_url + path)
        deadline_s = time.monotonic() + self._timeout_s
        fixed_headers = [self._authorization, *self._priority, *headers]
        retries = self._retries if retries is None else retries
        for attempt in range(retries + 1):
            remaining_s = max(deadline_s - time.monotonic(), 0.001)
            timeouts_s = dict.fromkeys(("connect", "read", "write", "pool"), remaining_s)
            sent_headers = fixed_headers
            if method == "POST" and remaining_s < DEFAULT_TIMEOUT_S - TOLD_TIMEOUT_S:
                sent_headers = [*fixed_headers, (TIMEOUT_HEADER, b"%.3f" % remaining_s)]
            request = httpx.Request(method, url, headers=sent_headers, content=body, extensions={"timeout": timeouts_s})
            retry_after_s: float | None = None
            try:
                response: Response = yield SendRequest(request, deadline_s)
            except httpx.TimeoutException as error:
                raise ResponseTimeout(f"{url}: no response within {self._timeout_s:g} s; raise timeout=") from error
            except httpx.TransportError as error:
                failure: CallError = ConnectionFailed(f"cannot connect to {url}: {error or type(error).__name__}")
                failure.__cause__ = error
            else:
                if response.status < 400:
                    return response
                request_id = response.headers.get("x-request-id")
                failure = errors.parse_error(response.status, response.body, request_id)
                if response.status not in RETRYABLE_STATUSES:
                    raise failure
                retry_after_s = _parse_retry_after(response.headers.get("retry-after"))
            wait_s = backoff_s(attempt, retry_after_s)
            if attempt == retries or time.monotonic() + wait_s >= deadline_s:
                raise failure
            yield Sleep(wait_s)
            if time.monotonic() >= deadline_s:
                raise failure
        raise AssertionError("the last attempt returns or raises")


def _is_tensor_list(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and {"name", "datatype"} <= each.keys() for each in value
    )


def _decode_json(source: str, body: bytes | str, json_type: type[T]) -> T:
    """Decode a response; raises ProtocolError where it is another than Shoal's."""
    try:
        return msgspec.json.decode(body, type=json_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"{source}: the response is not Shoal's: {error}; check the URL of the service") from error


def _decode_field(source: str, body: bytes | str, name: str, json_type: type[T]) -> T:
    """Decode one field of a response, of this type; see _decode_json."""
    fields = _decode_json(source, body, dict[str, Any])
    if not isinstance(fields.get(name), get_origin(json_type) or json_type):
        raise ProtocolError(f"{source}: the response has no valid {name!r}; check the URL of the service")
    value: T = fields[name]
    return value


def backoff_s(attempt: int, retry_after_s: float | None) -> float:
    """Return the seconds to wait after failed attempt 0, 1, ...: doubling, with jitter, on top of Retry-After.

    The jitter keeps callers that failed together from returning together; it is the "equal jitter" of
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    max_s = min(INITIAL_BACKOFF_S * 2**attempt, MAX_BACKOFF_S)
    return (retry_after_s or 0.0) + random.uniform(max_s / 2, max_s)


def _parse_retry_after(retry_after: str | None) -> float | None:
    """Parse Retry-After in seconds; Shoal does not use its other form, a date."""
    try:
        return max(0.0, float(retry_after or ""))
    except ValueError:
        return None


class EventParser:
    """Parses a stream's events to chunks of text, and keeps the predictions of its last event."""

    predictions: list[Any] | None = None

    def feed(self, event: str, data: str) -> TextChunk | None:
        """Parse an event; returns a chunk where it is one.

        Raises:
            CallError: the event is an error.
        """
        if event == events.TOKEN:
            chunk = _decode_json("the stream", data, _Chunk)
            return TextChunk(chunk.row, chunk.text)
        if event == events.DONE:
            self.predictions = _decode_field("the stream", data, "predictions", list[Any])
        elif event == events.ERROR:
            raise errors.parse_error(None, data.encode())
        return None

    def close(self) -> None:
        """Note the end of the connection; raises ProtocolError where the stream had not ended."""
        if self.predictions is None:
            raise ProtocolError("the connection closed before the end of the stream; its text is incomplete")
