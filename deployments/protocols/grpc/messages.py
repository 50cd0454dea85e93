"""The protocol's messages, made from open_inference.binpb (`make proto`).

They live in a pool of their own: another library in the same process, Triton's client for one, may bring messages of
the same names. And a compiled description, unlike generated code, does not tie Shoal to one version of protobuf.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from deployments.errors import MalformedBody, PayloadTooLarge

SERVICE = "inference.GRPCInferenceService"
COMPILED = Path(__file__).with_name("open_inference.binpb")

# A message of empty parts takes two bytes for each, and some fifty times that once it is read.
MAX_FIELDS = 1000

_POOL = DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(COMPILED.read_bytes()).file:
    _POOL.Add(_file)


def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


ServerLiveRequest, ServerLiveResponse = _message_class("ServerLiveRequest"), _message_class("ServerLiveResponse")
ServerReadyRequest, ServerReadyResponse = _message_class("ServerReadyRequest"), _message_class("ServerReadyResponse")
ServerMetadataRequest, ServerMetadataResponse = (
    _message_class("ServerMetadataRequest"),
    _message_class("ServerMetadataResponse"),
)
ModelReadyRequest, ModelReadyResponse = _message_class("ModelReadyRequest"), _message_class("ModelReadyResponse")
ModelMetadataRequest, ModelMetadataResponse = (
    _message_class("ModelMetadataRequest"),
    _message_class("ModelMetadataResponse"),
)
ModelInferRequest, ModelInferResponse = _message_class("ModelInferRequest"), _message_class("ModelInferResponse")


def parse_message(kind: Any, raw: bytes) -> Any:
    """Read a message.

    Raises:
        MalformedBody: these bytes are none of this kind.
        TooLarge: it has more parts than any request needs.
    """
    try:
        _check_field_count(raw)
        return kind.FromString(raw)
    except (DecodeError, IndexError):
        raise MalformedBody(f"these {len(raw)} bytes are no {kind.DESCRIPTOR.name}") from None


def _check_field_count(raw: bytes) -> None:
    """Walk over a message's own fields, without what is in them, and refuse too many."""
    at = 0
    for _ in range(MAX_FIELDS):
        if at >= len(raw):
            return
        key, at = _read_varint(raw, at)
        kind = key & 7
        if kind == 2:
            size, at = _read_varint(raw, at)
            at += size
        elif kind == 0:
            _, at = _read_varint(raw, at)
        else:
            at += 8 if kind == 1 else 4
    raise PayloadTooLarge(f"a message of more than {MAX_FIELDS} parts; send several requests")


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """One number of protobuf's variable width, and where the next thing begins; IndexError where it is cut off."""
    value = 0
    for place in range(10):
        byte = raw[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise IndexError
