"""Outermost layer: every error becomes its status and body, and what is ours to mend is logged and says no more."""

import logging

from deployments import errors
from deployments.layers.asgi import App, Receive, Scope, Send, decline, header, respond

logger = logging.getLogger("ray.serve")


class Errors:
    """Answers for whatever the layers within raise."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await decline(scope, receive, send)
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
                if isinstance(error, errors.CallerLeft):
                    return
                raise
            await respond(send, error.status, error_body(scope, error.code, error.message), headers=error.headers)
        except Exception:
            logger.exception("request failed: %s %s", scope["method"], scope["path"])
            if started:
                raise
            message = "this is a fault of the service, not of the request; it has been logged"
            await respond(send, 500, error_body(scope, "internal", message))


def error_body(scope: Scope, code: str, message: str) -> bytes:
    """The error body that fits the path: Shoal's own, or the Open Inference Protocol's."""
    path: str = scope["path"]
    if path.startswith("/v2") and not path.endswith(("/predict", "/example")):
        return errors.oip_body(message)
    return errors.body(code, message, header(scope, b"x-request-id").decode("latin-1") or None)
