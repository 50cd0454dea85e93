"""What the directory tells the edges: the members that take requests, the callers' keys, the certificate."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from deployments.specs.model_deployment import Endpoint

CONTROL, GRPC, EDGE = "shoal.control", "shoal.grpc", "shoal.edge"
"""Applications of Shoal's own; a model's name has no dot."""

EDGE_DIR_VARIABLE = "SHOAL_EDGE_DIR"
"""Set by cluster.local.start on each node: the folder of HAProxy's files there."""

HEAD_LABEL = "shoal.head"
"""Ray's label of the head's node; its value is `true`."""


CANARY_SUFFIX = ".canary"
"""What the name of a canary's application ends with, after its model's."""

MIN_SILENCE_S, SILENCE_MARGIN_S = 60, 15
"""An edge waits longer for a replica's next byte than the replica itself lets a caller wait."""


@dataclass(frozen=True)
class Listen:
    """Where edges listen: the address, and the ports of HTTP and gRPC."""

    host: str
    http_port: int
    grpc_port: int


@dataclass(frozen=True)
class Route:
    """A model, pipeline or application that requests are sent to.

    Attributes:
        name: of its Serve application.
        response_timeout_s: how long a replica may say nothing before the edge gives a request up.
    """

    name: str
    response_timeout_s: float

    @classmethod
    def of(cls, endpoint: "Endpoint", application: str = "") -> "Route":
        """The route of a model or pipeline, or of a canary, whose application has a name of its own."""
        return cls(application or endpoint.name, endpoint.limits.request_timeout_s)

    @property
    def max_silence_s(self) -> int:
        """Seconds without a byte after which an edge gives a replica up."""
        return max(MIN_SILENCE_S, round(self.response_timeout_s + SILENCE_MARGIN_S))


@dataclass(frozen=True)
class LocalSocket:
    """A Unix socket, which takes a third less time of each request than TCP on loopback.

    Attributes:
        path: of the socket.
        machine: where it can be reached, in the kernel's words: a folder may be shared between machines, a socket not.
    """

    path: str
    machine: str

    def is_reachable(self) -> bool:
        """Whether a process here can connect."""
        return self.machine == identify_machine() and Path(self.path).is_socket()


def identify_machine() -> str:
    """An id of this machine's running kernel: https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html, boot_id."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


@dataclass(frozen=True)
class Member:
    """A replica that takes requests.

    Attributes:
        id: unique among all members.
        route: where its requests come from.
        address: host:port of its server.
        local_socket: the server's Unix socket, for an edge on the same machine; empty where it has none.
        version: of the model.
        variant: of the model: its precision, or `pipeline`.
        protocol: http (HTTP/1.1), or grpc (HTTP/2 without TLS).
    """

    id: str
    route: Route
    address: str
    version: int = 0
    variant: str = ""
    protocol: Literal["http", "grpc"] = "http"
    local_socket: LocalSocket | None = None


@dataclass(frozen=True)
class Split:
    """How a model's requests are split between the version that serves and a canary beside it.

    Each request has one of SPLIT_BUCKETS, by the hash of what it is split by and of the model's name; the canary takes
    the first `weight` of them, so that a higher weight only adds to what it takes. The edges' template has the rule for
    requests whose path names a model, splits.py for calls by handles.

    Attributes:
        name: of the model.
        canary_version: requests that name it go to the canary, whatever the weight.
        weight: of SPLIT_BUCKETS.
        by: caller, request (its id) or header:NAME; a request without the header counts by its caller.
    """

    name: str
    canary_version: int
    weight: int
    by: str


SPLIT_BUCKETS = 10_000


@dataclass(frozen=True)
class ShadowTarget:
    """Where a replica sends copies of its requests to.

    Attributes:
        addresses: host:port of the replicas that take them.
        percent: of its requests that are copied.
    """

    addresses: tuple[str, ...]
    percent: float


@dataclass(frozen=True)
class Instructions:
    """What the directory tells a member with each renewal.

    Attributes:
        shadow: where it sends copies of its requests to, where it does.
        splits: of the models whose canary takes requests now.
        ended_keys: ids of keys that were valid and are so no longer; told to gRPC gateways, whose streams may be long.
    """

    shadow: ShadowTarget | None = None
    splits: tuple[Split, ...] = ()
    ended_keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class EdgeState:
    """What an edge has to bring about.

    Attributes:
        revision: increases with every change; of one life of the directory.
        is_complete: whether the directory has been alive long enough for every member to have renewed.
        routes: what is deployed, with members or without.
        members: the replicas.
        keys: the caller, as access/caller.py encodes it, by the digest of each key.
        certificate: PEM of the certificate chain and its private key; empty for plain HTTP.
        secret: what a replica knows the edges by.
        pepper: key of the digests, in hexadecimal.
        splits: of the models that have a canary.
    """

    revision: int
    is_complete: bool
    routes: tuple[Route, ...]
    members: tuple[Member, ...]
    keys: Mapping[str, str]
    certificate: str
    secret: str
    pepper: str
    splits: tuple[Split, ...] = ()
