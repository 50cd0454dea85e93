"""A request without a connection, whose response is kept."""

from collections.abc import Iterable

from deployments.errors import ClientError
from deployments.server.middleware import HttpApp
from deployments.server.request import Headers, Request, Response


class CapturedRequest(Request):
    """A POST request; `answer` runs it through an application as the server does."""

    def __init__(self, path: str, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        # As the server: the first field of a name counts.
        super().__init__("POST", path.encode(), dict(reversed(list(headers))), [])
        self.body = body
        self.status, self.parts = 0, list[bytes]()

    async def answer(self, app: HttpApp) -> tuple[int, bytes]:
        """Answer it; returns status and body."""
        try:
            for layer in app.layers:
                layer.admit(self)
            response = await app.handler(self)
        except Exception as error:
            response = app.encode_error(self, error)
        for layer in app.layers:
            layer.leave(self)
        if response is not None:
            self._take(response)
        return self.status, b"".join(self.parts)

    def _take(self, response: Response) -> None:
        self.status, self.parts = response.status, [response.body]

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
