"""The protocol's messages, built from open_inference.binpb (`make proto`).

They have a descriptor pool of their own: another library in the same process, Triton's client for one, may bring
messages of the same names. And a compiled descriptor, unlike generated code, does not require one version of protobuf.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from deployments.errors import MalformedBody, PayloadTooLarge

SERVICE_NAME = "inference.GRPCInferenceService"
DESCRIPTOR_FILE = Path(__file__).with_name("open_inference.binpb")

# An empty field takes two bytes of a message, and some fifty times that once it is parsed.
MAX_FIELDS = 1000

_VARINT, _FIXED_64, _LENGTH_DELIMITED = 0, 1, 2
_MAX_VARINT_BYTES = 10

POOL = DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR_FILE.read_bytes()).file:
    POOL.Add(_file)


def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


ServerLiveRequest, ServerLiveResponse = _message_class("ServerLiveRequest"), _message_class("ServerLiveResponse")
ServerReadyRequest, ServerReadyResponse = _message_class("ServerReadyRequest"), _message_class("ServerReadyResponse")
ServerMetadataRequest = _message_class("ServerMetadataRequest")
ServerMetadataResponse = _message_class("ServerMetadataResponse")
ModelReadyRequest, ModelReadyResponse = _message_class("ModelReadyRequest"), _message_class("ModelReadyResponse")
ModelMetadataRequest = _message_class("ModelMetadataRequest")
ModelMetadataResponse = _message_class("ModelMetadataResponse")
ModelInferRequest, ModelInferResponse = _message_class("ModelInferRequest"), _message_class("ModelInferResponse")
ModelStreamInferResponse = _message_class("ModelStreamInferResponse")


def parse_message(message_type: Any, body: bytes) -> Any:
    """Parse a message.

    Raises:
        MalformedBody: the bytes are not of this type.
        PayloadTooLarge: it has more fields than any request needs.
    """
    try:
        _check_field_count(body)
        return message_type.FromString(body)
    except (DecodeError, IndexError):
        raise MalformedBody(f"the {len(body)} bytes are not a {message_type.DESCRIPTOR.name}") from None


def _check_field_count(body: bytes) -> None:
    """Count a message's own fields, without parsing their contents, and refuse too many.

    https://protobuf.dev/programming-guides/encoding/
    """
    position = 0
    for _ in range(MAX_FIELDS):
        if position >= len(body):
            return
        tag, position = _read_varint(body, position)
        wire_type = tag & 7
        if wire_type == _LENGTH_DELIMITED:
            length, position = _read_varint(body, position)
            position += length
        elif wire_type == _VARINT:
            _, position = _read_varint(body, position)
        else:
            position += 8 if wire_type == _FIXED_64 else 4
    raise PayloadTooLarge(f"the message has more than {MAX_FIELDS} fields; send several requests")


def _read_varint(body: bytes, position: int) -> tuple[int, int]:
    """Read one varint; returns it and the position behind it. IndexError where it is cut off."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = body[position + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, position + index + 1
    raise IndexError
