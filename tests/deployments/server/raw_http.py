"""HTTP/1.1 byte by byte over a real socket, for requests that no client sends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Response:
    """A response as it came.

    Attributes:
        status: of its status line.
        headers: the fields in their order, names in lower case.
        body: without chunks.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __getitem__(self, name: str) -> str:
        return ", ".join(value for each, value in self.headers if each == name)

    def __contains__(self, name: str) -> bool:
        return any(each == name for each, _ in self.headers)


class RawConnection:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def read_response(self, *, is_head: bool = False) -> Response:
        """Read one response."""
        async with asyncio.timeout(TIMEOUT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.rstrip().split("\r\n")
            fields = [line.partition(":") for line in lines]
            headers = tuple((name.lower(), value.strip()) for name, _, value in fields)
            response = Response(int(status_line.split()[1]), headers, b"")
            if is_head or response.status in (100, 204, 304):
                return response
            return Response(response.status, headers, await self._read_body(response))

    async def _read_body(self, response: Response) -> bytes:
        if response["transfer-encoding"] == "chunked":
            chunks = []
            while (chunk := await self.read_chunk()) is not None:
                chunks.append(chunk)
            return b"".join(chunks)
        if "content-length" in response:
            return await self.reader.readexactly(int(response["content-length"]))
        return await self.reader.read()

    async def read_chunk(self) -> bytes | None:
        """Read one chunk; None is the end of the body."""
        size = int(await self.reader.readline(), 16)
        chunk = await self.reader.readexactly(size + 2)
        assert chunk.endswith(b"\r\n")
        return chunk[:-2] if size else None

    async def request(self, method: str, path: str, body: bytes = b"", *fields: str) -> Response:
        """Send a request with its length and read the response."""
        await self.send(encode_request(method, path, body, *fields))
        return await self.read_response(is_head=method == "HEAD")

    async def is_closed(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Whether the peer closes, and sends nothing more, within a time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                try:
                    return await self.reader.read(1) == b""
                except ConnectionError:
                    return True
        return False

    async def read_rest_or_reset(self) -> bytes:
        """Read until the peer closes, or breaks the connection off."""
        try:
            return await self.read_rest()
        except ConnectionError:
            return b""

    async def read_rest(self) -> bytes:
        """Read until the peer closes."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.read()

    def close(self) -> None:
        """Close."""
        self.writer.close()


def encode_request(method: str, path: str, body: bytes = b"", *fields: str) -> bytes:
    """Encode a request; with a body, it has its length."""
    lines = [f"{method} {path} HTTP/1.1", "host: test", *fields, *([f"content-length: {len(body)}"] if body else [])]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@contextlib.asynccontextmanager
async def open_raw(port: int) -> AsyncIterator[RawConnection]:
    """Connect to a port of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
