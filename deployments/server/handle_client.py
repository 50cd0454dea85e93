"""Handles: how one deployment asks a model that another serves, and stops asking when nobody waits for the answer.

Request walk: control.py or pipelines/runner.py -> [handles.py] -> by_handle.py, in the model's replica
"""

import asyncio
from typing import Any

from ray import serve
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.errors import ClientError, NodeFailed, Unavailable

# A replica that died is replaced within this, as a rule: so long a call waits for one.
REPLICA_WAIT_S = 6.0


class HandleClient:
    """Asks deployed models in words; a pipeline's call.Ask."""

    def __init__(self) -> None:
        self._handles: dict[str, DeploymentHandle[Any]] = {}
        self._finding = asyncio.Lock()

    async def __call__(
        self, model: str, raw: bytes, request_id: str | None, within_s: float, kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """Ask once, and once more where the replica died over it: inference is idempotent."""
        for _ in range(2):
            try:
                return await self._once(model, raw, request_id, within_s, kind)
            except ClientError:
                raise
            except RayActorError:
                continue
            except RayServeException:
                raise Unavailable(f"{model} is not deployed, or failed to start; `shoal status` says more") from None
            except Exception as error:
                # Serve sends what the replica raised and logged.
                raise NodeFailed(
                    f"a fault of the service: {type(error).__name__}; the log of {model} says more"
                ) from error
        raise Unavailable(f"two replicas of {model} died over this request")

    async def _once(
        self, model: str, raw: bytes, request_id: str | None, within_s: float, kind: str
    ) -> tuple[int, bytes]:
        handle = await self._handle(model)
        response = handle.remote(raw, kind, request_id, within_s)
        # Serve queues a call that finds no replica for as long as it takes, and tells nobody: only its own future shows
        # whether a replica has it.
        assigned: asyncio.Future[Any] = response._replica_result_future  # type: ignore[assignment]
        waited_s = min(within_s, REPLICA_WAIT_S)
        try:
            await asyncio.wait({assigned}, timeout=waited_s)
            if assigned.done():
                return await _await_response(response)
        except asyncio.CancelledError:
            # Between being assigned and being awaited, a call hears nothing of it by itself.
            if assigned.done() and not assigned.cancelled() and not assigned.exception():
                assigned.result().cancel()
            raise
        finally:
            assigned.cancel()
        raise Unavailable(f"no replica of {model} answers; waited {waited_s:.3g} s for one; try again shortly")

    async def _handle(self, model: str) -> DeploymentHandle[Any]:
        if model not in self._handles:
            async with self._finding:
                # One for all requests: each handle listens to Serve's controller for as long as this process lives.
                if model not in self._handles:
                    # It asks the controller, and blocks until that has answered.
                    found = await asyncio.to_thread(serve.get_app_handle, model)
                    self._handles[model] = found.options(method_name="predict")
        return self._handles[model]


async def _await_response(response: Any) -> tuple[int, bytes]:
    try:
        status, body = await response
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # It was the replica that gave the call up, and sent that as its answer: it stops.
        raise ActorUnavailableError("the replica stops", None) from None
    return status, body
