"""The events of a streamed `predict` response; one table for the server that sends them and the client.

Imports nothing heavy, so that the client may use it.
"""

from typing import NamedTuple

TOKEN = "token"
"""The next chunk of one row's text: {"row", "text"}."""

DONE = "done"
"""The last event: what the response is without a stream."""

ERROR = "error"
"""The last event of a stream that failed: an error body."""


class TextChunk(NamedTuple):
    """The next chunk of a row's text."""

    row: int
    text: str
