"""The client for asyncio: sync_client.py with `await`; core.py has the requests and retries."""

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
    DEFAULT_TIMEOUT_S,
    ClientCore,
    Effects,
    EventParser,
    Response,
    SendRequest,
    Sleep,
)
from deployments.client.inputs import Inputs
from deployments.client.sync_client import LIMITS
from deployments.errors import ProtocolError, ResponseTimeout
from deployments.protocols.arrays import Array
from deployments.protocols.predict.events import TextChunk

T = TypeVar("T")


class AsyncClient:
    """Client with `await`: the same calls, arguments and errors; see there. For one event loop."""

    def __init__(
        self,
        base_url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retries: int = 3,
        priority: str = "interactive",
        verify: bool | str | ssl.SSLContext = True,
    ) -> None:
        """See Client."""
        self._core = ClientCore(base_url, key, timeout, retries, priority)
        self._transport = httpx.AsyncHTTPTransport(verify=self._core.choose_verification(verify), limits=LIMITS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
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

    async def _run(self, effects: Effects[T], opened: list[httpx.Response] | None = None) -> T:
        try:
            effect = next(effects)
            while True:
                if isinstance(effect, Sleep):
                    await asyncio.sleep(effect.seconds)
                    effect = next(effects)
                    continue
                try:
                    response = await self._transport.handle_async_request(effect.request)
                except httpx.TransportError as error:
                    effect = effects.throw(error)
                    continue
                if opened is not None and response.status_code < 400:
                    opened.append(response)
                    effect = effects.send(Response(response.status_code, response.headers, b""))
                else:
                    effect = effects.send(
                        Response(response.status_code, response.headers, await _read_body(response, effect))
                    )
        except StopIteration as stop:
            result: T = stop.value
            return result


async def _read_body(response: httpx.Response, effect: SendRequest) -> bytes:
    parts = []
    try:
        async for part in response.stream:  # type: ignore[union-attr]
            parts.append(part)
            if time.monotonic() > effect.deadline_s:
                raise ResponseTimeout(
                    f"{effect.request.url}: the response began and did not end in time; raise timeout="
                )
    except httpx.TransportError as error:
        raise ProtocolError(f"{effect.request.url}: the connection closed within the response: {error}") from error
    finally:
        await response.aclose()
    return parts[0] if len(parts) == 1 else b"".join(parts)


class AsyncStream:
    """Stream with `async for`; where a loop is left early, use it in `async with`."""

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._parser = response, EventParser()

    @property
    def predictions(self) -> list[Any] | None:
        """What predict would have returned; None before the end of the stream."""
        return self._parser.predictions

    async def __aiter__(self) -> AsyncGenerator[TextChunk]:
        try:
            async for event in EventSource(self._response).aiter_sse():
                chunk = self._parser.feed(event.event, event.data)
                if chunk is not None:
                    yield chunk
        except httpx.TimeoutException as error:
            raise ResponseTimeout("the stream was silent for longer than timeout=; its text is incomplete") from error
        except httpx.TransportError as error:
            raise ProtocolError(f"the connection closed before the end of the stream: {error}") from error
        finally:
            await self.close()
        self._parser.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the service stops generating within one token."""
        await self._response.aclose()
