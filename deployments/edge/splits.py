"""Splits: which version of a model answers a call by a handle, by the rule that the edges' template has for paths.

Request walk: deployments.server.handle_client -> [splits.py]
gRPC names a model only inside its messages, a pipeline's node calls one without any path. The directory tells the
weights with each renewal of a membership: they are in force within a second, as at the edges.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from deployments.edge.state import CANARY_SUFFIX, SPLIT_BUCKETS, Instructions, Split

REQUEST, HEADER_PREFIX = "request", "header:"


@dataclass(frozen=True)
class CallOrigin:
    """What a call is split by.

    Attributes:
        caller: the name of who calls.
        request_id: of the request that it is part of.
        headers: of that request, or its metadata, by names in lower case.
    """

    caller: str = ""
    request_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_fields(cls, caller: str, fields: Iterable[tuple[bytes, bytes]]) -> "CallOrigin":
        """The origin of an HTTP request, by its caller's name and the fields of its header in their order.

        As at the edges, of a name that comes twice the last one counts, and its bytes, whatever text they are.
        """
        headers = {name.decode("latin-1"): value.decode(errors="surrogateescape") for name, value in fields}
        return cls(caller, headers.get("x-request-id", ""), headers)


class Splits:
    """The splits of now."""

    def __init__(self) -> None:
        self._splits: dict[str, Split] = {}

    def follow(self, instructions: Instructions) -> None:
        """Take what the directory says."""
        self._splits = {split.name: split for split in instructions.splits}

    def choose(self, model: str, version: str, origin: CallOrigin) -> str:
        """The name of the application that answers: the model's, or its canary's.

        Args:
            model: its name.
            version: that the call names; empty for none.
            origin: of the call.
        """
        split = self._splits.get(model)
        if split is None:
            return model
        if version:
            is_canarys = version == str(split.canary_version)
        else:
            is_canarys = compute_bucket(_get_key(split, origin), model) < split.weight
        return model + CANARY_SUFFIX if is_canarys else model


def compute_bucket(key: str, model: str) -> int:
    """One of SPLIT_BUCKETS, independent of the one that the same key has for another model."""
    digest = hashlib.sha256(f"{key} {model}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") % SPLIT_BUCKETS


def _get_key(split: Split, origin: CallOrigin) -> str:
    if split.by == REQUEST:
        return origin.request_id
    if split.by.startswith(HEADER_PREFIX):
        return origin.headers.get(split.by.removeprefix(HEADER_PREFIX), origin.caller)
    return origin.caller
