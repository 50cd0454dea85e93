"""Every error that a caller can get, with its HTTP status and code: one table, for the service and its client.

A refused request is a `ClientError`; any other exception becomes a 500 without its reason. The body is
{"error": {"code", "message", "request_id"}}, on Open Inference Protocol paths that protocol's {"error": "..."}.
"""

from collections.abc import Iterator

import msgspec

from training.errors import ShoalError

NO_STATUS = 0
"""The status of errors without a response, which no body has."""


class CallError(ShoalError):
    """A call that failed; this class itself: a fault of the service, or an unknown code."""

    status = 500
    code = "internal"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    request_id: str | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ClientError(CallError):
    """A request that is refused; the message gives the value, the rule and the remedy."""

    status = 400
    code = "bad_request"


class MalformedBody(ClientError):
    """The body is not JSON, or does not match the request's schema."""

    code = "malformed_body"


class Unauthenticated(ClientError):
    """The request has no API key, or an unknown one."""

    status = 401
    code = "unauthenticated"
    headers: tuple[tuple[bytes, bytes], ...] = ((b"www-authenticate", b'Bearer realm="shoal"'),)


class Forbidden(ClientError):
    """The key does not allow it."""

    status = 403
    code = "forbidden"


class NotFromEdge(ClientError):
    """A replica got a request that no edge of its cluster sent."""

    status = 403
    code = "not_from_edge"


class CrossSite(ClientError):
    """A browser sent a request that changes something for a page of another site."""

    status = 403
    code = "cross_site"


class NotFound(ClientError):
    """No such path."""

    status = 404
    code = "not_found"


class UnknownModel(NotFound):
    """No deployed model has this name."""

    code = "unknown_model"


class UnknownVersion(NotFound):
    """The model is deployed in another version."""

    code = "unknown_version"


class MethodNotAllowed(ClientError):
    """The path exists, for another method."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not allowed on this path; use {allowed}")
        self.headers = ((b"allow", allowed.encode()),)


class NotStreamable(ClientError):
    """A stream was requested from a model that returns its output at once."""

    status = 406
    code = "not_streamable"


class BodyTimeout(ClientError):
    """The caller did not finish sending in time."""

    status = 408
    code = "body_timeout"


class Conflict(ClientError):
    """What is asked for does not fit what goes on."""

    status = 409
    code = "conflict"


class PayloadTooLarge(ClientError):
    """The body, an image or the number of rows is over its limit."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(ClientError):
    """The model does not read this content type or encoding."""

    status = 415
    code = "unsupported_media_type"


class Unprocessable(ClientError):
    """A well-formed request whose content the model does not take."""

    status = 422
    code = "unprocessable"


class InvalidShape(Unprocessable):
    """Rows of unequal length, or of another shape than the model takes."""

    code = "invalid_shape"


class InvalidType(Unprocessable):
    """Values of another type than the model takes, or out of its range."""

    code = "invalid_type"


class NotFinite(Unprocessable):
    """NaN or infinity."""

    code = "not_finite"


class EmptyRequest(Unprocessable):
    """A request without rows."""

    code = "empty_request"


class InvalidFeatures(Unprocessable):
    """A record with a missing or an unknown feature."""

    code = "invalid_features"


class UnknownTensor(Unprocessable):
    """The model has no input or output of this name."""

    code = "unknown_tensor"


class UnknownParameter(Unprocessable):
    """The model does not support this parameter."""

    code = "unknown_parameter"


class InvalidImage(Unprocessable):
    """The bytes are not an image of a supported type, or a damaged one."""

    code = "invalid_image"


class InferenceFailed(Unprocessable):
    """Valid rows for which the net itself raises, or returns no finite number."""

    code = "inference_failed"


class TensorsNotSupported(Unprocessable):
    """An Open Inference Protocol request to a pipeline."""

    code = "tensors_not_supported"


class NodeFailed(ClientError):
    """An internal error in a node of a pipeline: a 500 that names the node."""

    status = 500
    code = "node_failed"


class ModelFailed(ClientError):
    """The net fails whatever the rows, or returns what its bundle does not declare: a fault of the service."""

    status = 500
    code = "model_failed"


class DeviceFailed(ClientError):
    """The replica's device failed; another replica, or this one's successor, may answer."""

    status = 503
    code = "device_failed"
    headers = ((b"retry-after", b"1"),)


class QueueFull(ClientError):
    """The replica has as many requests as its queue may hold, or more rows than it can answer this request after."""

    status = 429
    code = "queue_full"
    headers = ((b"retry-after", b"1"),)

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.args = (message, retry_after_s)
        self.headers = ((b"retry-after", b"%d" % retry_after_s),)


class TooManyTokens(ClientError):
    """The address of the caller has sent many tokens that are not valid; others are not verified for a while."""

    status = 429
    code = "too_many_tokens"
    headers = ((b"retry-after", b"10"),)


class LimitExceeded(ClientError):
    """The caller's key or tenant has used what a limit gives it; `retry-after` says when there is more."""

    status = 429
    code = "limit_exceeded"

    def __init__(self, message: str, retry_after_s: int = 1, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.args = (message, retry_after_s, fields)
        self.headers = ((b"retry-after", b"%d" % retry_after_s), *fields)


class LimitsUnavailable(ClientError):
    """The ledger of limits does not answer, and the caller has some: nobody knows what is left of them."""

    status = 503
    code = "limits_unavailable"
    headers = ((b"retry-after", b"1"),)


class Unavailable(ClientError):
    """The model is deployed and no replica of it is available."""

    status = 503
    code = "unavailable"
    headers = ((b"retry-after", b"1"),)


class ClientDisconnected(ClientError):
    """The caller closed the connection before the response: nobody reads this, metrics count it (nginx's status)."""

    status = 499
    code = "client_disconnected"


class DeadlineExceeded(ClientError):
    """The response took longer than request_timeout_s, or a stream longer than stream_timeout_s."""

    status = 504
    code = "deadline_exceeded"


class ConnectionFailed(CallError):
    """Raised by the client: no connection, or it closed before the response, at each attempt."""

    status = NO_STATUS
    code = "connection_failed"


class ResponseTimeout(CallError):
    """Raised by the client: no response within its own timeout."""

    status = NO_STATUS
    code = "response_timeout"


class ProtocolError(CallError):
    """Raised by the client: the connection closed within a response, or the response is not one of Shoal's."""

    status = NO_STATUS
    code = "protocol_error"


def _iter_subclasses(base: type[CallError]) -> Iterator[type[CallError]]:
    yield base
    for subclass in base.__subclasses__():
        yield from _iter_subclasses(subclass)


ERRORS_BY_CODE: dict[str, type[CallError]] = {
    error.code: error for error in _iter_subclasses(CallError) if error.status != NO_STATUS
}
"""Every code that a body may have."""

# Where several have one status, the first stands for it.
_ERRORS_BY_STATUS: dict[int, type[CallError]] = {}
for _error in ERRORS_BY_CODE.values():
    if "status" in vars(_error):
        _ERRORS_BY_STATUS.setdefault(_error.status, _error)


RATE_LIMIT, RATE_LIMIT_POLICY = b"ratelimit", b"ratelimit-policy"
"""How a limit stands, and what it is: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/"""

# A caller by a handle gets them in the body.
_CARRIED_HEADERS = (b"retry-after", RATE_LIMIT, RATE_LIMIT_POLICY)


def encode_error(code: str, message: str, request_id: str | None) -> bytes:
    """Encode Shoal's error body."""
    return msgspec.json.encode({"error": {"code": code, "message": message, "request_id": request_id}})


def encode_call_error(error: CallError, request_id: str | None) -> bytes:
    """Encode an error for a caller by a handle, who gets no headers: `Retry-After` is in the body."""
    fields = {"code": error.code, "message": error.message, "request_id": request_id}
    return msgspec.json.encode({"error": fields | {name.decode(): value.decode() for name, value in error.headers}})


def encode_oip_error(message: str) -> bytes:
    """Encode the Open Inference Protocol's error body."""
    return msgspec.json.encode({"error": message})


def parse_error(status: int | None, body: bytes, request_id: str | None = None) -> CallError:
    """Decode an error body of either protocol into the error that it was encoded from.

    Args:
        status: HTTP status of the response; None for a stream's error event, whose status is its code's.
        body: of the response.
        request_id: used where the body has none.

    Returns:
        An instance of the code's class; without a known code, of the status's.
    """
    content: object
    try:
        content = msgspec.json.decode(body)["error"]
    except (msgspec.DecodeError, TypeError, KeyError, UnicodeDecodeError, RecursionError):
        # Not from Shoal: a proxy's error page, for example.
        content = f"status {status}: {body[:200].decode(errors='replace')}"
    fields = content if isinstance(content, dict) else {"message": str(content)}
    code = fields.get("code")
    by_code = ERRORS_BY_CODE.get(code) if isinstance(code, str) else None
    by_status = None if status is None else _ERRORS_BY_STATUS.get(status)
    error_class = by_code or by_status or (ClientError if status and status < 500 else CallError)
    error = error_class.__new__(error_class)
    # Not the class's own __init__: MethodNotAllowed builds its message from what only the service knows.
    CallError.__init__(error, str(fields.get("message")))
    error.status, error.code = status or error_class.status, code or error_class.code
    error.request_id = fields.get("request_id") or request_id
    headers = tuple((name, fields[name.decode()].encode()) for name in _CARRIED_HEADERS if name.decode() in fields)
    if headers:
        error.headers = headers
    return error
