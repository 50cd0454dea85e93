"""A request without a connection, whose response is kept."""

import asyncio
from collections.abc import Iterable

from deployments.errors import ClientError
from deployments.server.request import App, Headers, Request, Response


class CapturedRequest(Request):
    """A POST request; `answer` runs it through an application as the server does."""

    def __init__(self, path: str, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        # As the server: the first field of a name counts.
        super().__init__("POST", path.encode(), dict(reversed(list(headers))), [])
        self.body = body
        self.status, self.parts = 0, list[bytes]()
        self._responded: asyncio.Future[Response]

    async def answer(self, app: App) -> tuple[int, bytes]:
        """Answer it; returns status and body."""
        try:
            for layer in app.layers:
                layer.admit(self)
            self._responded = asyncio.get_running_loop().create_future()
            awaitable = app.handler(self)
            response = await (self._responded if awaitable is None else awaitable)
        except Exception as error:
            response = app.encode_error(self, error)
        for layer in app.layers:
            layer.leave(self)
        if response is not None:
            self._take(response)
        return self.status, b"".join(self.parts)

    def _take(self, response: Response) -> None:
        self.status, self.parts = response.status, [response.body]

    def respond(self, response: Response) -> None:
        self._responded.set_result(response)

    def fail(self, error: Exception) -> None:
        self._responded.set_exception(error)

    def cancel(self, error: ClientError) -> None:
        raise AssertionError(f"canceled: {error}")

    async def start(self, status: int, headers: Headers) -> None:
        self.status, self.is_started = status, True

    async def write(self, part: bytes) -> None:
        self.parts.append(part)

    async def end(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass
