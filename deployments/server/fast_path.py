"""Fast path: what Ray's replica does around each HTTP request that HAProxy sends to it, in fewer steps.

Request walk: HAProxy -> [fast_path.py] -> middleware.py -> routes.py -> deployments.models.served_model
Ray's own steps (`Replica._direct_ingress_asgi`) take longer than a small net, the codec and batching together: a
context for handles, tracing, timeouts by header and a streaming protocol, none of which a model uses. This file keeps
what the rest of Ray reads: the slot of max_ongoing_requests, the number of ongoing requests, by which Ray scales and
drains, and its metrics. A request that needs more takes Ray's way. Ray's private names are in ray_internals.py.
"""

import time

from deployments.ray_internals import ReplicaIngress, replace_replica_ingress
from deployments.server.asgi import App, Message, Receive, Scope, Send

# HAProxy sets it on every request that it sends directly to a replica; see cluster/local/haproxy.py.
UNWATCHED_HEADER = b"x-request-disconnect-disabled"
# Prefixes of the headers by which a caller uses a feature of Ray's own steps.
RAY_HEADER_PREFIXES = (b"x-request-timeout", b"serve_", b"serve-")


def install_fast_path(app: App) -> None:
    """Let HTTP requests to this process's replica reach `app` through `FastPath`."""
    replace_replica_ingress(lambda ingress: FastPath(ingress, app))


class FastPath:
    """Counts a request as Ray does, and passes it on."""

    def __init__(self, ingress: ReplicaIngress, app: App) -> None:
        self._ingress, self._app = ingress, app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        ingress = self._ingress
        if not _needs_no_ray_feature(scope):
            await ingress.app(scope, receive, send)
            return
        status = "500"

        async def tracked_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        start_s, raised = time.perf_counter(), True
        await ingress.slots.acquire()
        ingress.metrics.inc_num_ongoing_requests(ingress.request_metadata)
        try:
            await self._app(scope, receive, tracked_send)
            raised = False
        finally:
            ingress.metrics.dec_num_ongoing_requests(ingress.request_metadata)
            ingress.slots.release()
            self._record(scope["method"], status, 1000 * (time.perf_counter() - start_s), raised)

    def _record(self, method: str, status: str, latency_ms: float, raised: bool) -> None:
        """Update Ray's metrics: a deployment's errors are exceptions that leave it, HTTP's are its statuses."""
        ingress = self._ingress
        ingress.metrics.record_request_metrics(route=ingress.route, latency_ms=latency_ms, is_error=raised)
        ingress.metrics.record_ingress_request_metrics(
            **ingress.metric_tags,
            method=method,
            route=ingress.route,
            latency_ms=latency_ms,
            is_error=status >= "4",
            status_code=status,
        )


def _needs_no_ray_feature(scope: Scope) -> bool:
    """Whether HAProxy sent this request directly, and it is neither a health check of Ray's nor uses its headers."""
    if scope["type"] != "http" or scope["path"].startswith("/-/"):
        return False
    is_direct = False
    for name, _ in scope["headers"]:
        if name.startswith(RAY_HEADER_PREFIXES):
            return False
        is_direct = is_direct or name == UNWATCHED_HEADER
    return is_direct
