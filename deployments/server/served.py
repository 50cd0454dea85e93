"""Served: which model, version and bundle an answer is of, as its headers say.

Request walk: http_server.py or handle_client.py -> [served.py]
A replica's server has these headers encoded once; what calls a replica by a handle is told with the result.
"""

from collections.abc import Callable
from typing import NamedTuple

from deployments.specs.model_deployment import Endpoint, ModelEndpoint

MODEL_HEADER, VERSION_HEADER, DIGEST_HEADER = b"x-shoal-model", b"x-shoal-version", b"x-shoal-digest"
NODES_HEADER = b"x-shoal-nodes"


class Served(NamedTuple):
    """What has computed an answer.

    Attributes:
        model: name of the model or pipeline.
        version: that is deployed.
        digest: of the model's bundle, as the registry has it; "" of a pipeline, which has none.
        nodes: NAME:VERSION of each model and pipeline that a pipeline has called for this answer, sorted.
    """

    model: str
    version: int
    digest: str = ""
    nodes: tuple[str, ...] = ()

    @classmethod
    def of(cls, endpoint: Endpoint) -> "Served":
        """What a replica of an endpoint serves."""
        return cls(endpoint.name, endpoint.version, endpoint.digest if isinstance(endpoint, ModelEndpoint) else "")

    def list_nodes(self) -> tuple[str, ...]:
        """What a pipeline that has called this one adds to its own nodes."""
        return (f"{self.model}:{self.version}", *self.nodes)

    def build_headers(self) -> dict[str, str]:
        """The headers of a response, or the initial metadata of a gRPC call."""
        headers = {MODEL_HEADER.decode(): self.model, VERSION_HEADER.decode(): str(self.version)}
        if self.digest:
            headers[DIGEST_HEADER.decode()] = self.digest
        if self.nodes:
            headers[NODES_HEADER.decode()] = encode_nodes(self.nodes)
        return headers

    def encode_headers(self) -> bytes:
        """The same as header fields of HTTP."""
        return b"".join(f"{name}: {value}\r\n".encode() for name, value in self.build_headers().items())


OnServed = Callable[[Served], None]
"""Called with what has computed an answer, before the answer is returned or its first event is."""


def encode_nodes(nodes: tuple[str, ...]) -> str:
    """The value of NODES_HEADER."""
    return ",".join(nodes)


def ignore_served(served: Served) -> None:
    """Where nobody asks."""
