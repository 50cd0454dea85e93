"""Direct ingress: what Ray's replica does around each HTTP request that HAProxy sends it, in fewer steps.

Request walk: socket -> HAProxy -> [direct.py] -> ingress.py -> replica.py
Ray's own steps (`Replica._direct_ingress_asgi`, Ray 2.60) take longer than a small net, the codec and batching do
together: a context for handles, traces, time limits by header and a streaming protocol, none of which a model uses.
Here is what the rest of Ray reads: the slot of max_ongoing_requests, the count of ongoing requests, by which Ray scales
and drains, and its metrics. A request that asks for more than that takes Ray's way.
"""

import logging
import time
from typing import Any

from ray._private.worker import global_worker
from ray.serve._private.common import RequestMetadata, RequestProtocol

from deployments.server.asgi import App, Message, Receive, Scope, Send

logger = logging.getLogger("ray.serve")

# HAProxy says so of every request that it sends straight to a replica; see cluster/local/haproxy.py.
UNWATCHED_HEADER = b"x-request-disconnect-disabled"
# Headers by which a caller asks Ray for more, by how they begin.
RAY_HEADER_PREFIXES = (b"x-request-timeout", b"serve_", b"serve-")


def install_fast_path(app: App) -> None:
    """Let HTTP requests to this process's replica reach `app` in fewer steps.

    Called when Serve builds the application, which is after the replica is made and before its server starts.
    """
    actor = global_worker.actors[global_worker.actor_id]
    try:
        replica = actor._replica_impl
        # An application in a thread of its own is not to be called from the server's.
        if not replica._user_callable_wrapper._run_user_code_in_separate_thread:
            replica._direct_ingress_asgi = FastPath(replica, app)
    except AttributeError:
        # Another Ray: slower, not wrong.
        logger.exception("this Ray's replica has another form; requests take its own way in")


class FastPath:
    """Counts a request as Ray does, and passes it on."""

    def __init__(self, replica: Any, app: App) -> None:
        self._app, self._rays = app, replica._direct_ingress_asgi
        self._slots, self._metrics = replica._semaphore, replica._metrics_manager
        self._route: str = replica._route_prefix or ""
        name = replica._deployment_id
        self._series = {"app_name": name.app_name, "deployment_name": name.name, "protocol": RequestProtocol.HTTP}
        self._kind = RequestMetadata(
            request_id="",
            internal_request_id="",
            route=self._route,
            app_name=name.app_name,
            is_direct_ingress=True,
            _request_protocol=RequestProtocol.HTTP,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if not self._is_plain(scope):
            await self._rays(scope, receive, send)
            return
        status = "500"

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        begin, escaped = time.perf_counter(), True
        await self._slots.acquire()
        self._metrics.inc_num_ongoing_requests(self._kind)
        try:
            await self._app(scope, receive, noted)
            escaped = False
        finally:
            self._metrics.dec_num_ongoing_requests(self._kind)
            self._slots.release()
            self._record(scope["method"], status, 1000 * (time.perf_counter() - begin), escaped)

    def _record(self, method: str, status: str, took_ms: float, escaped: bool) -> None:
        """To Ray's counters: a deployment's errors are those that escape it, HTTP's are its statuses."""
        self._metrics.record_request_metrics(route=self._route, latency_ms=took_ms, is_error=escaped)
        failed = status >= "4"
        self._metrics.record_ingress_request_metrics(
            **self._series, method=method, route=self._route, latency_ms=took_ms, is_error=failed, status_code=status
        )

    def _is_plain(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            return False
        unwatched = False
        for name, _ in scope["headers"]:
            if name.startswith(RAY_HEADER_PREFIXES):
                return False
            unwatched = unwatched or name == UNWATCHED_HEADER
        return unwatched
