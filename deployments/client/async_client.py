"""The client for asyncio: blocking.py with `await`; see core.py for what is asked."""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import httpx
from httpx_sse import EventSource
from numpy.typing import ArrayLike

from deployments.client.core import (
    DEFAULT_URL,
    ClientCore,
    Effects,
    EventReader,
    Inputs,
    ProtocolError,
    Response,
    ResponseTimeout,
    SendRequest,
    Sleep,
    TextChunk,
)
from deployments.client.sync_client import LIMITS
from deployments.client.tensors import Array

T = TypeVar("T")


class AsyncClient:
    """Client with `await`: the same calls, arguments and errors; see there. For one event loop."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        verify: bool | str | ssl.SSLContext = True,
    ) -> None:
        """See Client."""
        self._core = ClientCore(base_url, key, timeout, retries)
        checked = verify if base_url.startswith("https") else False
        self._transport = httpx.AsyncHTTPTransport(verify=checked, limits=LIMITS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    @overload
    async def infer(
        self,
        name: str,
        inputs: Mapping[str, ArrayLike],
        version: int | None = None,
        outputs: list[str] | None = None,
        *,
        binary: bool = True,
    ) -> dict[str, Array]: ...
    @overload
    async def infer(
        self,
        name: str,
        inputs: ArrayLike,
        version: int | None = None,
        outputs: list[str] | None = None,
        *,
        binary: bool = True,
    ) -> Array: ...
    async def infer(
        self,
        name: str,
        inputs: ArrayLike | Mapping[str, ArrayLike],
        version: int | None = None,
        outputs: list[str] | None = None,
        *,
        binary: bool = True,
    ) -> dict[str, Array] | Array:
        """See Client.infer."""
        return await self._run(self._core.infer(name, inputs, version, outputs, binary))

    async def predict(self, name: str, inputs: Inputs, *, version: int | None = None, **options: Any) -> list[Any]:
        """See Client.predict."""
        return await self._run(self._core.predict(name, inputs, version, options))

    async def stream(self, name: str, inputs: Inputs, *, version: int | None = None, **options: Any) -> "AsyncStream":
        """See Client.stream."""
        opened: list[httpx.Response] = []
        await self._run(self._core.stream(name, inputs, version, options), opened)
        return AsyncStream(opened[0])

    async def models(self) -> list[dict[str, Any]]:
        """See Client.models."""
        return await self._run(self._core.models())

    async def model(self, name: str) -> dict[str, Any]:
        """See Client.model."""
        return await self._run(self._core.model(name))

    async def ready(self, name: str, version: int | None = None) -> bool:
        """See Client.ready."""
        return await self._run(self._core.ready(name, version))

    async def metadata(self, name: str, version: int | None = None) -> dict[str, Any]:
        """See Client.metadata."""
        return await self._run(self._core.metadata(name, version))

    async def example(self, name: str, version: int | None = None) -> dict[str, Any]:
        """See Client.example."""
        return await self._run(self._core.example(name, version))

    async def _run(self, steps: Effects[T], opened: list[httpx.Response] | None = None) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    response = await self._transport.handle_async_request(step.request)
                except httpx.TransportError as error:
                    step = steps.throw(error)
                    continue
                if opened is not None and response.status_code < 400:
                    opened.append(response)
                    step = steps.send(Response(response.status_code, response.headers, b""))
                else:
                    step = steps.send(Response(response.status_code, response.headers, await _read(response, step)))
        except StopIteration as done:
            result: T = done.value
            return result


async def _read(response: httpx.Response, ask: SendRequest) -> bytes:
    parts = []
    try:
        async for part in response.stream:  # type: ignore[union-attr]
            parts.append(part)
            if time.monotonic() > ask.deadline:
                raise ResponseTimeout(f"{ask.request.url} began an answer and did not end it in time; raise timeout=")
    except httpx.TransportError as error:
        raise ProtocolError(f"{ask.request.url}: the connection closed in the middle of an answer: {error}") from error
    finally:
        await response.aclose()
    return parts[0] if len(parts) == 1 else b"".join(parts)


class AsyncStream:
    """Stream with `async for`; where a loop is left early, use it in `async with`."""

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._reader = response, EventReader()

    @property
    def predictions(self) -> list[Any] | None:
        """What predict would have returned; None before the end."""
        return self._reader.predictions

    async def __aiter__(self) -> AsyncGenerator[TextChunk]:
        try:
            async for event in EventSource(self._response).aiter_sse():
                piece = self._reader.read(event.event, event.data)
                if piece is not None:
                    yield piece
        except httpx.TimeoutException as error:
            raise ResponseTimeout("the stream was silent for longer than timeout; it is not whole") from error
        except httpx.TransportError as error:
            raise ProtocolError(f"the connection closed before the stream's end: {error}") from error
        finally:
            await self.close()
        self._reader.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the service stops writing within a token."""
        await self._response.aclose()
