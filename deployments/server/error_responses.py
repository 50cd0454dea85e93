"""Error responses: what a layer or handler raises, as a response; the errors of the service are logged and hidden."""

import logging

from deployments import errors
from deployments.observability.private_errors import describe_error
from deployments.server.request import Request, Response

logger = logging.getLogger("ray.serve")

INTERNAL_ERROR_MESSAGE = "internal error of the service; it has been logged"
"""The message of every error that is no ClientError."""


def encode_error_response(request: Request, error: Exception) -> Response:
    """Encode an error in the form of the request's path: Shoal's own, or the Open Inference Protocol's."""
    if isinstance(error, errors.ClientError):
        return Response(error.status, encode_error_for(request, error.code, error.message), headers=error.headers)
    extra = {"request_id": request.request_id} if request.request_id else None
    # As it came: a decoded path may hold line breaks.
    path = request.raw_path.decode("latin-1")
    if request.body:
        logger.error("request failed: %s %s\n%s", request.method, path, describe_error(error), extra=extra)
    else:
        logger.error("request failed: %s %s", request.method, path, exc_info=error, extra=extra)
    return Response(errors.CallError.status, encode_error_for(request, errors.CallError.code, INTERNAL_ERROR_MESSAGE))


def encode_error_for(request: Request, code: str, message: str) -> bytes:
    """Encode the body of an error."""
    path = request.path
    if path.startswith("/v2") and not path.endswith(("/predict", "/example")):
        return errors.encode_oip_error(message)
    return errors.encode_error(code, message, request.request_id)
