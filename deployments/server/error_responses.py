"""Error middleware, the outermost: encodes every error as a response; logs those of the service, and hides why."""

import logging
from collections import Counter

from deployments import errors
from deployments.server.asgi import (
    RESPONSE_STARTED,
    App,
    Message,
    Receive,
    Scope,
    Send,
    get_header,
    reject_non_http,
    send_response,
)

logger = logging.getLogger("ray.serve")

INTERNAL_ERROR_MESSAGE = "internal error of the service; it has been logged"
"""The message of every error that is no ClientError."""


class ErrorResponses:
    """Responds for the exceptions that the layers within it raise."""

    def __init__(self, app: App, counts: Counter[str] | None = None) -> None:
        """Make the layer.

        Args:
            app: the layers within it.
            counts: of the errors, by their code.
        """
        self._app, self._counts = app, Counter() if counts is None else counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await reject_non_http(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send if RESPONSE_STARTED in scope else _track_start(scope, send))
        except errors.ClientError as error:
            self._counts[error.code] += 1
            if scope[RESPONSE_STARTED]:
                if isinstance(error, errors.ClientDisconnected):
                    return
                raise
            body = encode_error_for(scope, error.code, error.message)
            await send_response(send, error.status, body, headers=error.headers)
        except Exception:
            self._counts[errors.CallError.code] += 1
            request_id = get_header(scope, b"x-request-id").decode("latin-1")
            logger.exception("request failed: %s %s", scope["method"], scope["path"], extra={"request_id": request_id})
            if scope[RESPONSE_STARTED]:
                raise
            body = encode_error_for(scope, errors.CallError.code, INTERNAL_ERROR_MESSAGE)
            await send_response(send, errors.CallError.status, body)


def _track_start(scope: Scope, send: Send) -> Send:
    """Keep RESPONSE_STARTED where the server does not."""
    scope[RESPONSE_STARTED] = False

    async def tracked_send(message: Message) -> None:
        scope[RESPONSE_STARTED] = True
        await send(message)

    return tracked_send


def encode_error_for(scope: Scope, code: str, message: str) -> bytes:
    """Encode the error body of the request's path: Shoal's own, or the Open Inference Protocol's."""
    path: str = scope["path"]
    if path.startswith("/v2") and not path.endswith(("/predict", "/example")):
        return errors.encode_oip_error(message)
    return errors.encode_error(code, message, get_header(scope, b"x-request-id").decode("latin-1") or None)
