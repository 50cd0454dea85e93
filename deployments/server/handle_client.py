"""Client of deployed models through Serve handles, for the control application, the gRPC gateway and pipelines.

Request walk: deployments.control.app, deployments.control.grpc_gateway or deployments.pipelines.replica
    -> [handle_client.py] -> handle_api.py
A call is retried once where its replica dies, and canceled where nobody waits for its response any more. A canary's
share of the calls goes to it, and to the version that serves where no replica of the canary is there any more.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator
from typing import Any, NamedTuple

from ray import serve
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.access.caller import CURRENT_CALLER
from deployments.access.usage.call_event import CURRENT_EVENT
from deployments.edge.splits import CallOrigin, Splits
from deployments.errors import CallError, DeadlineExceeded, NodeFailed, Unavailable, UnknownModel, parse_error
from deployments.ray_internals import assignment_of
from deployments.server.scheduling import INTERACTIVE
from deployments.server.served import OnServed, ignore_served
from deployments.server.sse import Event

# Serve replaces a replica that died within 6 s, one that is stopped within 20 s; a call waits so long for one, and as
# long as its caller does for one of a model that may sleep.
REPLICA_WAIT_S = 25.0
# So much before the caller's own limit a call that waits for a replica says so; at most a tenth of it.
WAIT_MARGIN_S = 0.1
# How long the client relies on a model's being deployed before it looks again.
CHECK_INTERVAL_S = 1.0
# A canary without a replica is not waited for: the version that serves can answer.
CANARY_WAIT_S = 2.0


class _Attempt(NamedTuple):
    """Where a call goes to.

    Attributes:
        model: that it asks for.
        application: that answers.
        has_fallback: whether another one answers where no replica of this one is there.
    """

    model: str
    application: str
    has_fallback: bool = False


class HandleClient:
    """Calls the methods of HandleApi, and raises a replica's errors as their own classes.

    Its own errors are UnknownModel, Unavailable (no replica is available), DeadlineExceeded (no response within
    timeout_s) and NodeFailed (the replica raised something unexpected).
    """

    def __init__(
        self,
        list_deployed: Callable[[], Collection[str]] | None = None,
        may_sleep: Callable[[str], Awaitable[bool]] | None = None,
        inject_trace: Callable[[], dict[str, Any]] | None = None,
        splits: Splits | None = None,
        caller: str = "",
        is_node: bool = False,
    ) -> None:
        """Make a client.

        Args:
            list_deployed: lists the names of deployed models, and may block; None for a caller that knows that the
                models which it calls are deployed.
            may_sleep: whether a model has no replica while nobody calls it. Serve starts one for a call that waits at a
                handle, and does so even if the caller gives up.
            inject_trace: makes the argument that takes the caller's span along; None where tracing is off.
            splits: which calls a canary gets; None for none.
            caller: who calls where a call has no origin.
            is_node: whether its calls are parts of a request, as a pipeline's are.
        """
        self._list_deployed, self._may_sleep, self._inject_trace = list_deployed, may_sleep, inject_trace
        self._splits, self._caller, self._is_node = splits or Splits(), caller, is_node
        self._checked_s: dict[str, float] = {}
        self._handles: dict[str, dict[str, DeploymentHandle[Any]]] = {}
        self._handles_lock = asyncio.Lock()

    async def predict(
        self,
        model: str,
        body: bytes,
        request_id: str | None,
        timeout_s: float,
        priority: int = INTERACTIVE,
        content_type: str = "application/json",
        *,
        version: str = "",
        origin: CallOrigin | None = None,
        on_served: OnServed = ignore_served,
    ) -> bytes:
        """Run a `predict` request, by this version where one is named; returns the response's body."""
        attempts = self._list_attempts(model, version, origin or CallOrigin(self._caller, request_id or ""))
        arguments = body, content_type, request_id, timeout_s, priority, version
        response, served = await self._call(attempts, "predict", timeout_s, *arguments)
        on_served(served)
        return response  # type: ignore[no-any-return]

    async def infer(
        self,
        model: str,
        version: str,
        body: bytes,
        header_length: int | None,
        timeout_s: float,
        priority: int = INTERACTIVE,
        origin: CallOrigin | None = None,
        on_served: OnServed = ignore_served,
    ) -> tuple[bytes, int | None]:
        """Run an Open Inference Protocol request.

        Args:
            model: its name.
            version: "" for the deployed one.
            body: JSON, followed by raw tensors where header_length is given.
            header_length: length of the JSON part.
            timeout_s: time limit.
            priority: see Scheduling.
            origin: of the call.
            on_served: told what has computed the response.

        Returns:
            The response's body, and the length of its JSON part.
        """
        attempts = self._list_attempts(model, version, origin or CallOrigin(self._caller))
        arguments = version, body, header_length, timeout_s, priority
        response, response_header_length, served = await self._call(attempts, "infer", timeout_s, *arguments)
        on_served(served)
        return response, response_header_length

    async def metadata(self, model: str, version: str, timeout_s: float) -> bytes:
        """Get a model's metadata; its replicas are ready if this returns."""
        attempts = self._list_attempts(model, version, CallOrigin(self._caller))
        (response,) = await self._call(attempts, "metadata", timeout_s, version)
        return response  # type: ignore[no-any-return]

    async def stream(
        self,
        model: str,
        body: bytes,
        request_id: str | None,
        timeout_s: float | None = None,
        priority: int = INTERACTIVE,
        content_type: str = "application/json",
        *,
        version: str = "",
        origin: CallOrigin | None = None,
        on_served: OnServed = ignore_served,
    ) -> AsyncGenerator[Event]:
        """Run a `predict` request and yield the response's events; closing the generator cancels the replica's work.

        timeout_s is until the first event; None for the replica's limit, and for a short wait where none is up.
        """
        attempts = self._list_attempts(model, version, origin or CallOrigin(self._caller, request_id or ""))
        arguments = body, content_type, request_id, timeout_s, priority, version
        for attempt in attempts:
            has_started = False
            response: Any = None
            try:
                with _translate_errors(attempt):
                    handles = await self._get_handles(attempt)
                    response = handles["stream"].remote(*arguments, **self._make_options())
                    await self._wait_for_replica(attempt, response, REPLICA_WAIT_S if timeout_s is None else timeout_s)
                    while (item := await _await_result(anext(response, None))) is not None:
                        status, name, data, served = item
                        if status != 200:
                            raise parse_error(status, data, request_id)
                        if served is not None:
                            on_served(served)
                        has_started = True
                        yield name, data
                return
            except RayActorError:
                if has_started:
                    raise Unavailable(f"the replica of {model} died during this request; send it again") from None
            finally:
                if response is not None:
                    _cancel(response)
        raise Unavailable(f"{len(attempts)} replicas of {model} died during this request")

    def _list_attempts(self, model: str, version: str, origin: CallOrigin) -> tuple[_Attempt, ...]:
        """Where a call goes to, and then once more: inference is idempotent."""
        application = self._splits.choose(model, version, origin)
        if application == model or version:
            return (_Attempt(model, application),) * 2
        return _Attempt(model, application, has_fallback=True), _Attempt(model, model)

    async def _call(
        self, attempts: tuple[_Attempt, ...], method: str, timeout_s: float, *arguments: Any
    ) -> tuple[Any, ...]:
        """Call a method of HandleApi; returns what follows the status."""
        try:
            async with asyncio.timeout(timeout_s):
                for attempt in attempts:
                    with contextlib.suppress(RayActorError), _translate_errors(attempt):
                        handles = await self._get_handles(attempt)
                        status, *result = await self._call_once(attempt, handles[method], timeout_s, arguments)
                        if status != 200:
                            raise parse_error(status, result[0])
                        return tuple(result)
        except TimeoutError:
            raise DeadlineExceeded(f"no response within {timeout_s:.3g} s; try again, or send less") from None
        raise Unavailable(f"{len(attempts)} replicas of {attempts[0].model} died during this request")

    def _make_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"caller": CURRENT_CALLER.get().encode(), "event": CURRENT_EVENT.get()}
        if self._is_node:
            options["is_node"] = True
        return options | (self._inject_trace() if self._inject_trace else {})

    async def _call_once(
        self, attempt: _Attempt, handle: DeploymentHandle[Any], timeout_s: float, arguments: Any
    ) -> Any:
        response: Any = handle.remote(*arguments, **self._make_options())
        try:
            await self._wait_for_replica(attempt, response, timeout_s)
            return await _await_result(response)
        except BaseException:
            _cancel(response)
            raise

    async def _wait_for_replica(self, attempt: _Attempt, response: Any, timeout_s: float) -> None:
        """Wait until a replica has the call; Serve would queue it for as long as there is none."""
        assignment = assignment_of(response)
        if assignment is None:
            return
        model = attempt.model
        if attempt.has_fallback:
            await asyncio.wait({assignment}, timeout=min(CANARY_WAIT_S, timeout_s / 2))
            if not assignment.done():
                raise ActorUnavailableError("no replica of the canary is available", None)
            return
        limit_s = timeout_s - min(WAIT_MARGIN_S, timeout_s / 10)
        wait_s = min(limit_s, REPLICA_WAIT_S)
        await asyncio.wait({assignment}, timeout=wait_s)
        if not assignment.done() and self._may_sleep and await self._may_sleep(model):
            await asyncio.wait({assignment}, timeout=limit_s - wait_s)
            if not assignment.done():
                raise Unavailable(
                    f"{model} was asleep and is still starting after {timeout_s:.3g} s; try again shortly"
                )
        if not assignment.done():
            if limit_s < REPLICA_WAIT_S:
                raise DeadlineExceeded(f"no response within {timeout_s:.3g} s; try again, or send less")
            raise Unavailable(f"no replica of {model} is available; waited {wait_s:.3g} s for one; try again shortly")

    async def _get_handles(self, attempt: _Attempt) -> dict[str, DeploymentHandle[Any]]:
        await self._check_deployed(attempt.model)
        application = attempt.application
        if application not in self._handles:
            async with self._handles_lock:
                # One for all requests: each handle listens to Serve's controller for as long as this process lives.
                if application not in self._handles:
                    # It blocks on the controller's response.
                    with _translate_errors(attempt):
                        handle = await asyncio.to_thread(serve.get_app_handle, application)
                    self._handles[application] = {
                        method: handle.options(method_name=method, stream=method == "stream")
                        for method in ("predict", "infer", "metadata", "stream")
                    }
        return self._handles[application]

    async def _check_deployed(self, model: str) -> None:
        if self._list_deployed is None or time.monotonic() - self._checked_s.get(model, -math.inf) < CHECK_INTERVAL_S:
            return
        deployed = await asyncio.to_thread(self._list_deployed)
        if model not in deployed:
            self._handles.pop(model, None)
            self._checked_s.pop(model, None)
            raise UnknownModel(f"no model {model!r} is deployed; GET /api/v1/models lists what is")
        self._checked_s[model] = time.monotonic()


async def _await_result(result: Any) -> Any:
    try:
        return await result
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # The replica canceled the call: it is shutting down.
        raise ActorUnavailableError("the replica is shutting down", None) from None


def _cancel(response: Any) -> None:
    """Cancel a call, queued or running."""
    assignment = assignment_of(response)
    response.cancel()
    # Serve's own cancel does not reach a call between its assignment and the first await.
    if assignment is not None and assignment.done() and not assignment.cancelled() and not assignment.exception():
        assignment.result().cancel()


@contextlib.contextmanager
def _translate_errors(attempt: _Attempt) -> Iterator[None]:
    """Raise Serve's and unexpected errors as CallErrors; that a replica died (RayActorError) is left to the retry."""
    model = attempt.model
    try:
        yield
    except (CallError, RayActorError, TimeoutError):
        raise
    except RayServeException:
        if attempt.has_fallback:
            raise ActorUnavailableError("the canary has been taken away", None) from None
        raise Unavailable(f"{model} has no running application; see `shoal status`") from None
    except Exception as error:
        # Serve sends what the replica raised and logged.
        raise NodeFailed(f"internal error of the service: {type(error).__name__}; see the log of {model}") from error
