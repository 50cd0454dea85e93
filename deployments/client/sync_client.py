"""The client for ordinary code: connections, waiting, and nothing else; see core.py for what is asked."""

import ssl
import time
from collections.abc import Iterator, Mapping
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
from deployments.client.tensors import Array

T = TypeVar("T")

# Shorter than Serve keeps an idle connection (90 s), so that none is used while it is being closed.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60)


class Client:
    """Calls models over HTTP; may be shared by threads. A `with` block closes its connections.

    What fails raises a `deployments.errors.CallError` with status, code, message and request_id: the class of the code,
    as `UnknownModel` or `QueueFull`, or `Unreachable`, `NoAnswer` and `Broken` where the service said nothing.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        verify: bool | str | ssl.SSLContext = True,
    ) -> None:
        """Take where and as whom to call; nothing is sent yet.

        Args:
            base_url: of the service.
            key: to show; without one the admin key in SHOAL_HOME (~/.shoal) on this machine.
            timeout: seconds for a call with all its retries; of a stream, until it begins, and then of silence.
            retries: how often a call is tried again, after longer and longer waits, where the service is too busy
                (429, 503) or the connection fails before an answer begins.
            verify: how an https server is checked; as in httpx.

        Raises:
            Mistake: no key, or a number out of its range.
        """
        self._core = ClientCore(base_url, key, timeout, retries)
        # Not httpx.Client: redirects, cookies, proxies and merged URLs take as long as all else together, and none of
        # them is wanted.
        self._transport = httpx.HTTPTransport(verify=verify if base_url.startswith("https") else False, limits=LIMITS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    @overload
    def infer(
        self,
        name: str,
        inputs: Mapping[str, ArrayLike],
        version: int | None = None,
        outputs: list[str] | None = None,
        *,
        binary: bool = True,
    ) -> dict[str, Array]: ...
    @overload
    def infer(
        self,
        name: str,
        inputs: ArrayLike,
        version: int | None = None,
        outputs: list[str] | None = None,
        *,
        binary: bool = True,
    ) -> Array: ...
    def infer(
        self,
        name: str,
        inputs: ArrayLike | Mapping[str, ArrayLike],
        version: int | None = None,
        outputs: list[str] | None = None,
        *,
        binary: bool = True,
    ) -> dict[str, Array] | Array:
        """Pass arrays through a model, by the Open Inference Protocol; the first axis is the rows.

        Args:
            name: of the model.
            inputs: an array for a model of one input (cast to what the model takes where that loses no more than
                digits), or arrays by name, sent as they are.
            version: if not the one that is served whatever it is.
            outputs: names of those that are wanted; all without it.
            binary: send and take values as bytes; False sends JSON, for a server that lacks the binary extension.

        Returns:
            An array for an array, else arrays by name.
        """
        return self._run(self._core.infer(name, inputs, version, outputs, binary))

    def predict(self, name: str, inputs: Inputs, *, version: int | None = None, **options: Any) -> list[Any]:
        """Ask in the words of the model's task.

        Args:
            name: of the model.
            inputs: a list of records, texts, series or pictures (bytes of a file); or one picture's bytes.
            version: if not the one that is served whatever it is.
            options: the task's own, as top_k=3 or max_tokens=50.

        Returns:
            A prediction for each row.
        """
        return self._run(self._core.predict(name, inputs, version, options))

    def stream(self, name: str, inputs: Inputs, *, version: int | None = None, **options: Any) -> "Stream":
        """Have texts continued, piece by piece as they are written; closing the stream stops the work.

        Arguments are predict's.
        """
        opened: list[httpx.Response] = []
        self._run(self._core.stream(name, inputs, version, options), opened)
        return Stream(opened[0])

    def models(self) -> list[dict[str, Any]]:
        """All models: what each is for, its versions, whether and how it is served."""
        return self._run(self._core.models())

    def model(self, name: str) -> dict[str, Any]:
        """One model's versions, manifest and example."""
        return self._run(self._core.model(name))

    def ready(self, name: str, version: int | None = None) -> bool:
        """Whether a model answers now; one that is not there does not."""
        return self._run(self._core.ready(name, version))

    def metadata(self, name: str, version: int | None = None) -> dict[str, Any]:
        """A model's inputs and outputs, as the Open Inference Protocol has them."""
        return self._run(self._core.metadata(name, version))

    def example(self, name: str, version: int | None = None) -> dict[str, Any]:
        """A request that works: `predict(name, **example(name))`."""
        return self._run(self._core.example(name, version))

    def _run(self, steps: Effects[T], opened: list[httpx.Response] | None = None) -> T:
        """Do what a call says, step by step; a stream that has begun goes into `opened`."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    time.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    response = self._transport.handle_request(step.request)
                except httpx.TransportError as error:
                    step = steps.throw(error)
                    continue
                if opened is not None and response.status_code < 400:
                    opened.append(response)
                    step = steps.send(Response(response.status_code, response.headers, b""))
                else:
                    step = steps.send(Response(response.status_code, response.headers, _read(response, step)))
        except StopIteration as done:
            result: T = done.value
            return result


def _read(response: httpx.Response, ask: SendRequest) -> bytes:
    parts = []
    try:
        for part in response.stream:  # type: ignore[union-attr]
            parts.append(part)
            if time.monotonic() > ask.deadline:
                raise ResponseTimeout(f"{ask.request.url} began an answer and did not end it in time; raise timeout=")
    except httpx.TransportError as error:
        raise ProtocolError(f"{ask.request.url}: the connection closed in the middle of an answer: {error}") from error
    finally:
        response.close()
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Stream:
    """An iterator over the pieces of texts that grow; afterwards `predictions` holds them whole."""

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._reader = response, EventReader()

    @property
    def predictions(self) -> list[Any] | None:
        """What predict would have returned; None before the end."""
        return self._reader.predictions

    def __iter__(self) -> Iterator[TextChunk]:
        try:
            for event in EventSource(self._response).iter_sse():
                piece = self._reader.read(event.event, event.data)
                if piece is not None:
                    yield piece
        except httpx.TimeoutException as error:
            raise ResponseTimeout("the stream was silent for longer than timeout; it is not whole") from error
        except httpx.TransportError as error:
            raise ProtocolError(f"the connection closed before the stream's end: {error}") from error
        finally:
            self.close()
        self._reader.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the service stops writing within a token."""
        self._response.close()
