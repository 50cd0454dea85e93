"""The API of a replica for calls through Serve handles: from the control application, the gRPC gateway, a pipeline.

Request walk: handle_client.py -> [handle_api.py] -> deployments.models.served_model or deployments.pipelines.executor
An exception would reach the caller as a remote traceback, and Serve would log it with its message, which may quote the
caller's values; errors are returned as a status and a body instead.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator
from functools import cached_property
from time import perf_counter

from deployments.access.caller import CURRENT_CALLER, parse_caller
from deployments.access.limits.accounts import CURRENT_CHARGE, Accounts, Charge
from deployments.access.usage.call_event import CURRENT_EVENT, CallEvent, new_internal_event
from deployments.access.usage.request_usage import CURRENT_USAGE, NO_SINK, RequestUsage, UsageSink
from deployments.errors import CallError, ClientError, DeadlineExceeded, NodeFailed, encode_call_error
from deployments.observability.private_errors import describe_error
from deployments.observability.tracing import ReplicaTracer, TraceHeaders
from deployments.protocols.predict.events import DONE, ERROR
from deployments.scaling.report import CallReport, RequestStatistics
from deployments.server.http_exchange import CLIENT_DISCONNECTED
from deployments.server.limit_check import is_counted
from deployments.server.routes import Servable
from deployments.server.scheduling import INTERACTIVE, Scheduling
from deployments.server.served import Served

logger = logging.getLogger("ray.serve")


class HandleApi:
    """The methods of a replica that Serve handles call; they delegate to `servable`."""

    servable: Servable
    tracer: ReplicaTracer | None = None
    usage_sink: UsageSink = NO_SINK
    accounts: Accounts | None = None
    ongoing_calls = total_calls = 0

    @cached_property
    def served(self) -> Served:
        """What answers of this replica are of."""
        return Served.of(self.servable.endpoint)

    @cached_property
    def call_statistics(self) -> RequestStatistics:
        """Counts of the calls that have ended."""
        return RequestStatistics()

    def report_calls(self) -> CallReport:
        """What the calls came to."""
        statistics = self.call_statistics
        latencies = statistics.latencies
        return CallReport(
            dict(statistics.responses),
            tuple(latencies.counts),
            latencies.sum_s,
            self.ongoing_calls,
            self.total_calls,
            tuple(statistics.excluded_latencies.counts),
        )

    async def infer(
        self,
        version: str,
        body: bytes,
        header_length: int | None,
        timeout_s: float | None = None,
        priority: int = INTERACTIVE,
        trace: TraceHeaders | None = None,
        caller: str = "",
        event: CallEvent | None = None,
        is_node: bool = False,
    ) -> tuple[int, bytes, int | None, Served | None]:
        """Run an Open Inference Protocol request; returns status, body, length of its JSON part, what computed it."""
        scheduling = self._schedule(timeout_s, priority)
        try:
            with self._observe_call(trace, caller, event, body) as usage:
                self.servable.endpoint.check_version(version)
                await self._charge_call(is_node)
                response, length = await self.servable.infer(body, header_length, scheduling)
                usage.bytes_out = len(response)
                return 200, response, length, self.served
        except ClientError as error:
            return error.status, encode_call_error(error, None), None, None
        except TimeoutError:
            raise
        except Exception as error:
            return CallError.status, encode_call_error(self._hide_error(error), None), None, None

    async def metadata(
        self,
        version: str,
        trace: TraceHeaders | None = None,
        caller: str = "",
        event: CallEvent | None = None,
        is_node: bool = False,
    ) -> tuple[int, bytes]:
        """Return the model's metadata; status and body."""
        try:
            self.servable.endpoint.check_version(version)
            return 200, self.servable.metadata
        except ClientError as error:
            return error.status, encode_call_error(error, None)

    async def predict(
        self,
        body: bytes,
        content_type: str,
        request_id: str | None,
        timeout_s: float | None = None,
        priority: int = INTERACTIVE,
        version: str = "",
        trace: TraceHeaders | None = None,
        caller: str = "",
        event: CallEvent | None = None,
        is_node: bool = False,
    ) -> tuple[int, bytes, Served | None]:
        """Run a `predict` request, for timeout_s at most; returns status, body, and what computed it."""
        scheduling = self._schedule(timeout_s, priority)
        try:
            with self._observe_call(trace, caller, event, body, request_id) as usage:
                self.servable.endpoint.check_version(version)
                async with asyncio.timeout(scheduling.timeout_s):
                    await self._charge_call(is_node)
                    response, served = await self.run_predict(body, content_type, request_id, scheduling)
                usage.bytes_out = len(response)
                return 200, response, served
        except ClientError as error:
            return error.status, encode_call_error(error, request_id), None
        except TimeoutError:
            late = DeadlineExceeded(f"no response within {scheduling.timeout_s:.3g} s; try again, or send less")
            return late.status, encode_call_error(late, request_id), None
        except Exception as error:
            return CallError.status, encode_call_error(self._hide_error(error, request_id), request_id), None

    async def run_predict(
        self, body: bytes, content_type: str, request_id: str | None, scheduling: Scheduling
    ) -> tuple[bytes, Served]:
        """Run a `predict` request; returns body, and what computed it."""
        return await self.servable.predict(body, content_type, request_id, scheduling), self.served

    async def stream(
        self,
        body: bytes,
        content_type: str,
        request_id: str | None,
        timeout_s: float | None = None,
        priority: int = INTERACTIVE,
        version: str = "",
        trace: TraceHeaders | None = None,
        caller: str = "",
        event: CallEvent | None = None,
        is_node: bool = False,
    ) -> AsyncGenerator[tuple[int, str, bytes, Served | None]]:
        """Stream a `predict` response: status, name and data of each event; a status that is not 200 is the last.

        The first event comes within timeout_s, and with what computes it.
        """
        served: Served | None = self.served
        scheduling = self._schedule(timeout_s, priority)
        stream = self.servable.stream(body, content_type, scheduling)
        try:
            with self._observe_call(trace, caller, event, body, request_id) as usage:
                async with contextlib.aclosing(stream) as events:
                    self.servable.endpoint.check_version(version)
                    await self._charge_call(is_node)
                    async for name, data in events:
                        usage.bytes_out += len(data)
                        if name == DONE:
                            # Before it is sent: what a caller has must have been counted.
                            usage.write(200)
                        yield 200, name, data, served
                        served = None
        except ClientError as error:
            yield error.status, ERROR, encode_call_error(error, request_id), None
        except Exception as error:
            hidden = self._hide_error(error, request_id)
            yield CallError.status, ERROR, encode_call_error(hidden, request_id), None

    def _hide_error(self, error: Exception, request_id: str | None = None) -> NodeFailed:
        """Log an unforeseen error without its message; returns what the caller gets."""
        model = self.servable.endpoint.name
        extra = {"request_id": request_id} if request_id else None
        logger.error("call failed: %s\n%s", model, describe_error(error), extra=extra)
        return NodeFailed(f"internal error of the service: {type(error).__name__}; see the log of {model}")

    def _schedule(self, timeout_s: float | None, priority: int) -> Scheduling:
        limit_s = self.servable.endpoint.limits.request_timeout_s
        return Scheduling.after(limit_s if timeout_s is None else min(timeout_s, limit_s), priority)

    async def _charge_call(self, is_node: bool) -> None:
        """Take what a call takes of its caller's limits; what a pipeline's node computes is the pipeline's caller's."""
        account = self.accounts.find(CURRENT_CALLER.get()) if self.accounts else None
        if account is not None:
            charge = Charge(account, is_node=is_node)
            CURRENT_CHARGE.set(charge)
            await charge.admit()

    @contextlib.contextmanager
    def _observe_call(
        self,
        trace: TraceHeaders | None,
        caller: str,
        event: CallEvent | None,
        body: bytes,
        request_id: str | None = None,
    ) -> Iterator[RequestUsage]:
        """Count a call for its caller, and its span where the caller is traced."""
        usage = RequestUsage(self.usage_sink, parse_caller(caller.encode()), event or new_internal_event())
        usage.bytes_in, usage.request_id = len(body), (request_id or "").encode() or usage.event.request_id
        CURRENT_CALLER.set(usage.caller)
        CURRENT_EVENT.set(usage.event)
        CURRENT_USAGE.set(usage)
        CURRENT_CHARGE.set(None)
        started_s, status = perf_counter(), 200
        self.ongoing_calls += 1
        self.total_calls += 1
        span = self.tracer.trace_call(trace) if self.tracer and trace else contextlib.nullcontext()
        try:
            with span:
                yield usage
        except BaseException as error:
            status = _find_status(error)
            raise
        finally:
            # A stream whose caller leaves is answered as far as it came; of another call nobody has an answer.
            if status != CLIENT_DISCONNECTED or usage.bytes_out:
                usage.write(200 if usage.bytes_out else status)
            self.ongoing_calls -= 1
            if (charge := CURRENT_CHARGE.get()) is not None:
                charge.finish(is_counted(status))
            self.call_statistics.record(status, perf_counter() - started_s)


def _find_status(error: BaseException) -> int:
    if isinstance(error, ClientError):
        return error.status
    if isinstance(error, TimeoutError):
        return DeadlineExceeded.status
    return CLIENT_DISCONNECTED if isinstance(error, asyncio.CancelledError | GeneratorExit) else CallError.status
