"""Access log: what HAProxy writes of requests: into a file that is rotated by size, to the edge's spans, its refusals.

HAProxy writes into a named pipe, and this process moves its lines on, so that the file can be rotated without a reload.
Both ends of the pipe stay open in HAProxy itself: it goes on where this process ends, and never waits; what a full
pipe does not hold is lost. A line is written at once, since it is shorter than PIPE_BUF.
"""

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

BACKUPS = 3
PIPE_BYTES = 1024**2
FILE_NAME, PIPE_NAME = "access.log", "access.pipe"

OnLine = Callable[[dict[str, object]], None]
OnLines = Callable[[bytes], None]


class AccessLog:
    """The access log of one edge."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        *,
        writes: bool,
        on_traced: OnLine | None = None,
        on_lines: OnLines | None = None,
    ) -> None:
        """Open the pipe; its lines are read after `start`.

        Args:
            folder: of the edge's files; closed to other users.
            max_bytes: of the file, before it is rotated.
            writes: whether lines go into the file.
            on_traced: is called with each line of a sampled request.
            on_lines: is called with all lines of a read, as they are.
        """
        self._on_traced, self._on_lines = on_traced, on_lines
        file = folder / FILE_NAME
        self._file: RotatingFileHandler | None = None
        if writes:
            self._file = RotatingFileHandler(
                file, maxBytes=max_bytes, backupCount=BACKUPS, encoding="utf-8", errors="surrogateescape"
            )
            self._file.terminator = ""
        pipe = folder / PIPE_NAME
        if not pipe.is_fifo():
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe, 0o600)
        # Read and write: it opens without a peer, and no end of it is ever the last one.
        self.descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._rest = b""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Move lines on from now."""
        loop.add_reader(self.descriptor, self.read)

    def read(self) -> None:
        """Move on what has been written."""
        try:
            content = self._rest + os.read(self.descriptor, PIPE_BYTES)
        except BlockingIOError:
            return
        lines, newline, self._rest = content.rpartition(b"\n")
        if self._file and newline:
            text = (lines + newline).decode("utf-8", "surrogateescape")
            self._file.handle(logging.LogRecord("access", logging.INFO, "", 0, text, None, None))
        if self._on_lines:
            self._on_lines(lines)
        if self._on_traced:
            for line in lines.split(b"\n"):
                if b'"span_id":"' in line and b'"span_id":"-"' not in line and b'"span_id":""' not in line:
                    self._on_traced(json.loads(line))

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the pipe here, after what is in it has been moved."""
        loop.remove_reader(self.descriptor)
        self.read()
        os.close(self.descriptor)
        if self._file:
            self._file.close()
