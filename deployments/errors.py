"""Everything that is refused, each with its status and code: what a caller got wrong, and what is too much just now.

Never a 500: that is kept for what is ours to mend. The body is {"error": {"code", "message", "request_id"}}, and on
Open Inference Protocol paths that protocol's own {"error": "..."}. The Python client raises these same classes.
"""

from collections.abc import Iterator

import msgspec

from training.errors import ShoalError


class CallError(ShoalError):
    """A call that was not answered, for whatever reason; by itself one that the service failed to answer."""

    status = 500
    code = "internal"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    request_id: str | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ClientError(CallError):
    """What a caller asked cannot be done; the message says what, the rule, and the remedy."""

    status = 400
    code = "bad_request"


class MalformedBody(ClientError):
    """The body is not JSON, or not of the request's form."""

    code = "malformed_body"


class Unauthenticated(ClientError):
    """No key was sent, or one that is not known."""

    status = 401
    code = "unauthenticated"
    headers = ((b"www-authenticate", b'Bearer realm="shoal", Basic realm="shoal: any user, the key as password"'),)


class NotFound(ClientError):
    """No such path."""

    status = 404
    code = "not_found"


class UnknownModel(NotFound):
    """No deployed model has this name."""

    code = "unknown_model"


class UnknownVersion(NotFound):
    """The model is served, but not in this version."""

    code = "unknown_version"


class MethodNotAllowed(ClientError):
    """The path exists, for another method."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not answered here; use {allowed}")
        self.headers = ((b"allow", allowed.encode()),)


class NotStreamed(ClientError):
    """A stream was asked for, of a model whose answer does not grow."""

    status = 406
    code = "not_streamed"


class BodyTimeout(ClientError):
    """The caller did not finish sending in time."""

    status = 408
    code = "body_timeout"


class PayloadTooLarge(ClientError):
    """Body, picture or number of rows over the limit."""

    status = 413
    code = "too_large"


class UnsupportedMediaType(ClientError):
    """A body of a kind that this model does not read."""

    status = 415
    code = "unsupported_content_type"


class Unprocessable(ClientError):
    """Well-formed, but not what this model takes."""

    status = 422
    code = "unprocessable"


class InvalidShape(Unprocessable):
    """Rows of unequal length, or of another length than the model takes."""

    code = "wrong_shape"


class InvalidType(Unprocessable):
    """Values of another type than the model takes, or out of its range."""

    code = "wrong_type"


class NotFinite(Unprocessable):
    """NaN or infinity."""

    code = "not_finite"


class EmptyRequest(Unprocessable):
    """A request of no rows."""

    code = "empty"


class InvalidFeatures(Unprocessable):
    """A record that lacks a feature, or has one too many."""

    code = "wrong_features"


class UnknownTensor(Unprocessable):
    """An input or output by a name that the model does not have."""

    code = "unknown_tensor"


class UnknownParameter(Unprocessable):
    """A parameter that says nothing to this model."""

    code = "unknown_parameter"


class InvalidImage(Unprocessable):
    """Bytes that are no picture of a kind we read."""

    code = "not_an_image"


class InferenceFailed(Unprocessable):
    """Rows of the right form for which the net itself raises."""

    code = "net_refused"


class TensorsNotSupported(Unprocessable):
    """A pipeline, asked in the Open Inference Protocol's tensors."""

    code = "asked_in_tensors"


class NodeFailed(ClientError):
    """A step of a pipeline failed in a way that is ours to mend; a 500, but one that names the step."""

    status = 500
    code = "step_broken"


class QueueFull(ClientError):
    """The replica has all the requests that it may hold."""

    status = 503
    code = "queue_full"
    headers = ((b"retry-after", b"1"),)


class Unavailable(ClientError):
    """The model is deployed, and no replica of it answers just now."""

    status = 503
    code = "unavailable"
    headers = ((b"retry-after", b"1"),)


class ClientDisconnected(ClientError):
    """The caller closed the connection before the answer; nobody reads this, but metrics count it (nginx's status)."""

    status = 499
    code = "caller_left"


class DeadlineExceeded(ClientError):
    """The answer took longer than request_timeout_s, or a stream longer than stream_timeout_s."""

    status = 504
    code = "timeout"


def encode_error(code: str, message: str, request_id: str | None) -> bytes:
    """The design's error body."""
    return msgspec.json.encode({"error": {"code": code, "message": message, "request_id": request_id}})


def encode_oip_error(message: str) -> bytes:
    """The Open Inference Protocol's error body."""
    return msgspec.json.encode({"error": message})


def parse_error(status: int | None, answer: bytes, request_id: str | None = None) -> CallError:
    """Read an error's body, of either form, back into the error that it was written from.

    Args:
        status: of the answer; None for what a stream ends with, whose status is its code's.
        answer: its body.
        request_id: where the body does not say it.

    Returns:
        An instance of the class of the same code; where the body has no code, of the class that stands for the status.
    """
    try:
        said = msgspec.json.decode(answer)["error"]
    except (msgspec.DecodeError, TypeError, KeyError, UnicodeDecodeError):
        # Not one of ours: a proxy's page, say.
        said = f"status {status}: {answer[:200].decode(errors='replace')}"
    told = said if isinstance(said, dict) else {"message": str(said)}
    kinds = list(_iter_subclasses(CallError))
    by_status: dict[int | None, type[CallError]] = {}
    for kind in kinds:
        if "status" in vars(kind):
            by_status.setdefault(kind.status, kind)
    same = next((kind for kind in kinds if kind.code == told.get("code")), None)
    kind = same or by_status.get(status) or (ClientError if status and status < 500 else CallError)
    error = kind.__new__(kind)
    # Not the class's own: WrongMethod makes its message from what only the service knows.
    CallError.__init__(error, str(told.get("message")))
    error.status, error.code = status or kind.status, told.get("code") or kind.code
    error.request_id = told.get("request_id") or request_id
    return error


def _iter_subclasses(kind: type[CallError]) -> Iterator[type[CallError]]:
    """A class and all that derive from it."""
    yield kind
    for each in kind.__subclasses__():
        yield from _iter_subclasses(each)
