"""The blocking client: connections and sleeps, and nothing else; core.py has the requests and retries."""

import ssl
import time
from collections.abc import Iterator, Mapping
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
from deployments.errors import ProtocolError, ResponseTimeout
from deployments.protocols.arrays import Array
from deployments.protocols.predict.events import TextChunk

T = TypeVar("T")

# Shorter than Serve keeps an idle connection (90 s), so that none is used while the server closes it.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60)


class Client:
    """Calls models over HTTP; may be shared by threads. A `with` block closes its connections.

    A call that fails raises a `deployments.errors.CallError` with status, code, message and request_id: the class of
    the code, as `UnknownModel` or `QueueFull`; without a response `ConnectionFailed`, `ResponseTimeout` or
    `ProtocolError`.
    """

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
        """Configure a client; nothing is sent yet.

        Args:
            base_url: of the service; without one the cluster that runs on this machine from SHOAL_HOME (~/.shoal).
            key: the API key; without one the admin key in SHOAL_HOME on this machine.
            timeout: seconds for a call with all its retries; of a stream, until it begins, and then of silence. The
                service knows it, and computes nothing that would come too late.
            retries: attempts after the first, with exponential backoff, where the service is too busy (429, 503) or
                the connection fails before a response begins.
            priority: `interactive`, or `batch`: computed where there is room, and refused first.
            verify: how an https server's certificate is verified; as in httpx. By default that of this machine's own
                cluster must be the one that it was started with.

        Raises:
            UserError: no URL or key and none here, or a number out of its range.
        """
        self._core = ClientCore(base_url, key, timeout, retries, priority)
        # Not httpx.Client: its redirects, cookies, proxies and merged URLs take as long as everything else together,
        # and none of them is needed.
        self._transport = httpx.HTTPTransport(verify=self._core.choose_verification(verify), limits=LIMITS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
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
        """Run a model on arrays, through the Open Inference Protocol.

        Args:
            name: of the model.
            inputs: an array of shape (B, ...) for a model of one input, cast to its datatype where that loses no more
                than digits; or arrays by name, sent as they are.
            version: required of the model; None takes the deployed one.
            outputs: names of the requested outputs; None for all.
            binary: send and receive elements as bytes; False sends JSON, for a server without the binary extension.

        Returns:
            An array for an array, else arrays by name.

        Raises:
            CallError: see Client.
        """
        return self._run(self._core.infer(name, inputs, version, outputs, binary))

    def predict(self, name: str, inputs: Inputs, *, version: int | None = None, **options: Any) -> list[Any]:
        """Run a model in its task's JSON form.

        Args:
            name: of the model.
            inputs: a list of records, texts, series or images (the bytes of a file); a pandas or polars frame of
                records; or the bytes of one image.
            version: required of the model; None takes the deployed one.
            options: the task's own, as top_k=3 or max_tokens=50.

        Returns:
            A prediction for each row.

        Raises:
            CallError: see Client.
        """
        return self._run(self._core.predict(name, inputs, version, options))

    def stream(self, name: str, inputs: Inputs, *, version: int | None = None, **options: Any) -> "Stream":
        """Generate texts, chunk by chunk as they grow; closing the stream stops the generation.

        Arguments are predict's.
        """
        opened: list[httpx.Response] = []
        self._run(self._core.stream(name, inputs, version, options), opened)
        return Stream(opened[0])

    def models(self) -> list[dict[str, Any]]:
        """List all models: summary, versions, deployment of each."""
        return self._run(self._core.models())

    def model(self, name: str) -> dict[str, Any]:
        """Return one model's versions, manifest and example."""
        return self._run(self._core.model(name))

    def ready(self, name: str, version: int | None = None) -> bool:
        """Whether a model is deployed and has a replica."""
        return self._run(self._core.ready(name, version))

    def metadata(self, name: str, version: int | None = None) -> dict[str, Any]:
        """Return a model's inputs and outputs, in the Open Inference Protocol's form."""
        return self._run(self._core.metadata(name, version))

    def example(self, name: str, version: int | None = None) -> dict[str, Any]:
        """Return a valid request: `predict(name, **example(name))`."""
        return self._run(self._core.example(name, version))

    def _run(self, effects: Effects[T], opened: list[httpx.Response] | None = None) -> T:
        """Perform a call's effects; a stream that has begun is appended to `opened`."""
        try:
            effect = next(effects)
            while True:
                if isinstance(effect, Sleep):
                    time.sleep(effect.seconds)
                    effect = next(effects)
                    continue
                try:
                    response = self._transport.handle_request(effect.request)
                except httpx.TransportError as error:
                    effect = effects.throw(error)
                    continue
                if opened is not None and response.status_code < 400:
                    opened.append(response)
                    effect = effects.send(Response(response.status_code, response.headers, b""))
                else:
                    effect = effects.send(
                        Response(response.status_code, response.headers, _read_body(response, effect))
                    )
        except StopIteration as stop:
            result: T = stop.value
            return result


def _read_body(response: httpx.Response, effect: SendRequest) -> bytes:
    parts = []
    try:
        for part in response.stream:  # type: ignore[union-attr]
            parts.append(part)
            if time.monotonic() > effect.deadline_s:
                raise ResponseTimeout(
                    f"{effect.request.url}: the response began and did not end in time; raise timeout="
                )
    except httpx.TransportError as error:
        raise ProtocolError(f"{effect.request.url}: the connection closed within the response: {error}") from error
    finally:
        response.close()
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Stream:
    """Iterates over the chunks of texts that grow; afterwards `predictions` has the complete texts."""

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._parser = response, EventParser()

    @property
    def predictions(self) -> list[Any] | None:
        """What predict would have returned; None before the end of the stream."""
        return self._parser.predictions

    def __iter__(self) -> Iterator[TextChunk]:
        try:
            for event in EventSource(self._response).iter_sse():
                chunk = self._parser.feed(event.event, event.data)
                if chunk is not None:
                    yield chunk
        except httpx.TimeoutException as error:
            raise ResponseTimeout("the stream was silent for longer than timeout=; its text is incomplete") from error
        except httpx.TransportError as error:
            raise ProtocolError(f"the connection closed before the end of the stream: {error}") from error
        finally:
            self.close()
        self._parser.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the service stops generating within one token."""
        self._response.close()
