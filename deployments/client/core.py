"""What both clients do, without I/O: what is asked, what an answer says, and when to try again.

A call is a generator: it yields what shall be done (send a request, wait) and is sent what came of it. blocking.py and
awaiting.py only do it. So each rule stands here once.
"""

import os
import random
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from deployments import errors
from deployments.client import tensors
from deployments.client.tensors import Array, Headers
from deployments.errors import CallError, InvalidType, UnknownTensor
from training.errors import UserError

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
RETRYABLE_STATUSES = frozenset({429, 503})
Inputs = list[Any] | tuple[Any, ...] | bytes | NDArray[Any]


class ConnectionFailed(CallError):
    """The service could not be reached, or closed the connection before it answered, each time it was tried."""

    status, code = 0, "unreachable"


class ResponseTimeout(CallError):
    """No answer came within the client's own timeout."""

    status, code = 0, "no_answer"


class ProtocolError(CallError):
    """The connection closed in the middle of an answer."""

    status, code = 0, "broken"


class Response(NamedTuple):
    """What came back; of a stream, `body` is empty where it has begun."""

    status: int
    headers: httpx.Headers
    body: bytes


class SendRequest(NamedTuple):
    """Send this, and read its answer before `deadline`, in seconds of time.monotonic()."""

    request: httpx.Request
    deadline: float


class Sleep(NamedTuple):
    """Do nothing for so long."""

    seconds: float


class TextChunk(NamedTuple):
    """The next piece of a text that grows."""

    row: int
    text: str


Effects = Generator[SendRequest | Sleep, Any, T]
"""A call: yields what shall be done, is sent an Answer for an Ask, and returns what was called for."""


def resolve_key(key: str | None) -> str:
    """The key to send: the one given, or this machine's admin key.

    Raises:
        Mistake: there is none.
    """
    if key is not None:
        return key
    file = Path(os.environ.get("SHOAL_HOME") or "~/.shoal").expanduser() / "secrets" / "admin_key"
    try:
        return file.read_text().strip()
    except OSError as error:
        raise UserError(
            f"no key was given, and {file} cannot be read: {error.strerror}; give Client(key=...)"
        ) from None


class ClientCore:
    """Every call there is, as steps; holds no connection. May be used by many threads at a time."""

    def __init__(self, base_url: str, key: str | None, timeout: float, retries: int) -> None:
        if timeout <= 0 or retries < 0:
            raise UserError(f"timeout={timeout}, retries={retries}; the first must be above 0, the second 0 or more")
        self.base_url, self._timeout_s, self._retries = base_url.rstrip("/"), timeout, retries
        self._authorization = (b"authorization", b"Bearer " + resolve_key(key).encode())
        # httpx takes a while to read a URL; a program asks few models.
        self._urls: dict[str, httpx.URL] = {}
        self._known: dict[tuple[str, int | None], dict[str, Any]] = {}

    def infer(
        self,
        name: str,
        inputs: ArrayLike | Mapping[str, ArrayLike],
        version: int | None,
        outputs: list[str] | None,
        binary: bool,
    ) -> Effects[dict[str, Array] | Array]:
        """See Client.infer."""
        if isinstance(inputs, Mapping):
            return (yield from self._infer(name, inputs, version, outputs, binary))
        known = yield from self._tensors_of(name, version)
        if len(known["inputs"]) != 1:
            raise UserError(f"{name} takes {[each['name'] for each in known['inputs']]}; send a dict of arrays by name")
        wanted = outputs or [each["name"] for each in known["outputs"]]
        if len(wanted) != 1:
            raise UserError(f"{name} gives {wanted}; name one of them in outputs=, or send a dict, which gets all")
        (spec,) = known["inputs"]
        array = np.asarray(inputs)
        dtype = tensors.DATATYPES.get(spec["datatype"])
        if dtype is not None and array.dtype != dtype and np.can_cast(array.dtype, dtype, "same_kind"):
            array = array.astype(dtype)
        try:
            found = yield from self._infer(name, {spec["name"]: array}, version, outputs, binary)
        except (UnknownTensor, InvalidType):
            # Another version may be served by now.
            self._known.pop((name, version), None)
            raise
        return found[wanted[0]]

    def _infer(
        self,
        name: str,
        inputs: Mapping[str, ArrayLike],
        version: int | None,
        outputs: list[str] | None,
        binary: bool,
    ) -> Effects[dict[str, Array]]:
        arrays = {each: np.asarray(values) for each, values in inputs.items()}
        body, headers = tensors.encode(arrays, outputs, binary)
        answer = yield from self._ask("POST", self._path(name, version, "/infer"), body, headers)
        length = answer.headers.get("inference-header-content-length")
        return tensors.decode(answer.body, int(length) if length else None)

    def _tensors_of(self, name: str, version: int | None) -> Effects[dict[str, Any]]:
        """A model's inputs and outputs, asked for once."""
        known = self._known.get((name, version))
        if known is None:
            known = self._known[name, version] = yield from self.metadata(name, version)
        return known

    def predict(self, name: str, inputs: Inputs, version: int | None, options: Mapping[str, Any]) -> Effects[list[Any]]:
        """See Client.predict."""
        body, headers = _encode_predict(inputs, options)
        answer = yield from self._ask("POST", self._path(name, version, "/predict"), body, headers)
        return list(msgspec.json.decode(answer.body)["predictions"])

    def stream(self, name: str, inputs: Inputs, version: int | None, options: Mapping[str, Any]) -> Effects[Response]:
        """Ask for a stream; the answer is one that has begun."""
        body, headers = _encode_predict(inputs, {**options, "stream": True})
        headers = [*headers, (b"accept", b"text/event-stream")]
        return (yield from self._ask("POST", self._path(name, version, "/predict"), body, headers))

    def models(self) -> Effects[list[Any]]:
        """See Client.models."""
        return list((yield from self._get("/api/v1/models"))["models"])

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
            answer = yield from self._ask("GET", self._path(name, version, "/ready"), b"", [], retries=0)
        except CallError as error:
            if error.status in (404, 503):
                return False
            raise
        return bool(msgspec.json.decode(answer.body)["ready"])

    def _get(self, path: str) -> Effects[dict[str, Any]]:
        answer = yield from self._ask("GET", path, b"", [])
        return msgspec.json.decode(answer.body, type=dict[str, Any])

    def _path(self, name: str, version: int | None, verb: str) -> str:
        return f"/v2/models/{quote(name, safe='')}{'' if version is None else f'/versions/{version}'}{verb}"

    def _ask(
        self, method: str, path: str, body: bytes, headers: Headers, retries: int | None = None
    ) -> Effects[Response]:
        """Send until it is answered, told that it never will be, or tried often enough.

        Trying again is safe: inference changes nothing.
        """
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = httpx.URL(self.base_url + path)
        deadline = time.monotonic() + self._timeout_s
        retries = self._retries if retries is None else retries
        for attempt in range(retries + 1):
            left_s = max(deadline - time.monotonic(), 0.001)
            within_s = dict.fromkeys(("connect", "read", "write", "pool"), left_s)
            request = httpx.Request(
                method, url, headers=[self._authorization, *headers], content=body, extensions={"timeout": within_s}
            )
            asked_s: float | None = None
            try:
                answer: Response = yield SendRequest(request, deadline)
            except httpx.TimeoutException as error:
                raise ResponseTimeout(f"{url} did not answer within {self._timeout_s:g} s; raise timeout=") from error
            except httpx.TransportError as error:
                reason: CallError = ConnectionFailed(f"{url} cannot be reached: {error or type(error).__name__}")
                reason.__cause__ = error
            else:
                if answer.status < 400:
                    return answer
                request_id = answer.headers.get("x-request-id")
                reason = errors.parse_error(answer.status, answer.body, request_id)
                if answer.status not in RETRYABLE_STATUSES:
                    raise reason
                asked_s = _parse_retry_after(answer.headers.get("retry-after"))
            wait_s = backoff_s(attempt, asked_s)
            if attempt == retries or time.monotonic() + wait_s >= deadline:
                raise reason
            yield Sleep(wait_s)
            if time.monotonic() >= deadline:
                raise reason
        raise AssertionError("the last attempt returns or raises")


def backoff_s(attempt: int, asked_s: float | None) -> float:
    """Seconds to wait after so many failed attempts: twice as many each time, and no less than the service asked for.

    Drawn at random, so that those who failed together do not come back together; the form is "equal jitter" of
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    most_s = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)
    drawn_s = random.uniform(most_s / 2, most_s)
    return drawn_s if asked_s is None else asked_s + drawn_s


def _parse_retry_after(retry_after: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is not used by Shoal."""
    try:
        return max(0.0, float(retry_after or ""))
    except ValueError:
        return None


def _encode_predict(inputs: Inputs, options: Mapping[str, Any]) -> tuple[bytes, Headers]:
    """A request in the words of the task: a picture's bytes as they are, everything else as JSON."""
    if isinstance(inputs, bytes):
        if not options:
            return inputs, [(b"content-type", _detect_image_type(inputs))]
        inputs = [inputs]
    if isinstance(inputs, str):
        raise TypeError("inputs is one text; send a list of them, one for each row")
    # A picture's bytes in the list become base64 by themselves.
    body = msgspec.json.encode({"inputs": inputs, **options}, enc_hook=_to_plain)
    return body, [(b"content-type", b"application/json")]


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON; send numbers, texts, lists, objects or arrays")


def _detect_image_type(raw: bytes) -> bytes:
    if raw.startswith(b"\x89PNG"):
        return b"image/png"
    return b"image/webp" if raw[8:12] == b"WEBP" else b"image/jpeg"


class EventReader:
    """Reads a stream's events: gives its pieces, keeps what it ends with."""

    predictions: list[Any] | None = None

    def read(self, event: str, data: str) -> TextChunk | None:
        """Take an event; returns a piece where it is one.

        Raises:
            CallError: the service ends the stream with it.
        """
        if event == "token":
            said = msgspec.json.decode(data)
            return TextChunk(said["row"], said["text"])
        if event == "done":
            self.predictions = msgspec.json.decode(data)["predictions"]
        elif event == "error":
            raise errors.parse_error(None, data.encode())
        return None

    def end(self) -> None:
        """Take the end of the connection; raises Broken where it came too early."""
        if self.predictions is None:
            raise ProtocolError(
                "the connection closed before the stream's end; what came so far is not the whole answer"
            )
