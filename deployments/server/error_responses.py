"""Outermost layer: every error becomes its status and body, and what is ours to mend is logged and says no more."""

import logging

from deployments import errors
from deployments.server.asgi import App, Receive, Scope, Send, get_header, reject_non_http, send_response

logger = logging.getLogger("ray.serve")

INTERNAL_ERROR_MESSAGE = "this is a fault of the service, not of the request; it has been logged"
"""What a caller is told of an error that is ours to mend."""


class ErrorResponses:
    """Answers for whatever the layers within raise."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await reject_non_http(scope, receive, send)
            return
        started = False

        async def watched(message: dict) -> None:  # type: ignore[type-arg]
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)  # type: ignore[arg-type]
        except errors.ClientError as error:
            if started:
                if isinstance(error, errors.ClientDisconnected):
                    return
                raise
            await send_response(
                send, error.status, encode_error_for(scope, error.code, error.message), headers=error.headers
            )
        except Exception:
            logger.exception("request failed: %s %s", scope["method"], scope["path"])
            if started:
                raise
            await send_response(send, 500, encode_error_for(scope, "internal", INTERNAL_ERROR_MESSAGE))


def encode_error_for(scope: Scope, code: str, message: str) -> bytes:
    """The error body that fits the path: Shoal's own, or the Open Inference Protocol's."""
    path: str = scope["path"]
    if path.startswith("/v2") and not path.endswith(("/predict", "/example")):
        return errors.encode_oip_error(message)
    return errors.encode_error(code, message, get_header(scope, b"x-request-id").decode("latin-1") or None)
