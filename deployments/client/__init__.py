"""The Python client: models that Shoal serves, as functions of arrays, records, texts and pictures.

    from deployments.client import Client

    with Client("http://127.0.0.1:8000") as shoal:
        scores = shoal.infer("flowers", rows)

Walk: [client] blocking.py or awaiting.py (I/O) around core.py (what is asked, what the answer says, when to try again)
and tensors.py (arrays to bytes and back). It imports neither Ray nor torch.
"""

from deployments.client.async_client import AsyncClient, AsyncStream
from deployments.client.core import ConnectionFailed, ProtocolError, ResponseTimeout, TextChunk
from deployments.client.sync_client import Client, Stream
from deployments.errors import CallError

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "CallError",
    "Client",
    "ConnectionFailed",
    "ProtocolError",
    "ResponseTimeout",
    "Stream",
    "TextChunk",
]
