"""The Python client: the models that Shoal serves, as functions of arrays, records, texts and images.

    from deployments.client import Client

    with Client("http://127.0.0.1:8000") as shoal:
        scores = shoal.infer("flowers", rows)

sync_client.py and async_client.py do the I/O around core.py (requests, responses, retries) and tensors.py (arrays to
bodies and back). It imports neither Ray nor torch.
"""

from deployments.client.async_client import AsyncClient, AsyncStream
from deployments.client.sync_client import Client, Stream
from deployments.errors import CallError, ConnectionFailed, ProtocolError, ResponseTimeout
from deployments.protocols.predict.events import TextChunk

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
