"""Arrays to the protocol's bytes and back, as the client writes and reads them."""

import json
import struct

import numpy as np
import pytest

from deployments.client.tensors import DATATYPES, decode, encode


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_survives_the_way_through_bytes(datatype: str) -> None:
    array = np.array([[0, 1], [1, 0], [1, 1]], DATATYPES[datatype].newbyteorder(">"))

    body, headers = encode({"x": array}, None, binary=True)
    length = int(dict(headers)[b"inference-header-content-length"])
    (tensor,) = json.loads(body[:length])["inputs"]
    answer = json.dumps({"outputs": [tensor]}).encode()
    found = decode(answer + body[length:], len(answer))["x"]

    assert tensor["datatype"] == datatype
    assert tensor["parameters"]["binary_data_size"] == array.nbytes == len(body) - length
    assert np.array_equal(found, array)


def test_texts_are_bytes_with_their_length_in_front() -> None:
    body, headers = encode({"x": np.array(["很", "a"])}, None, binary=True)
    length = int(dict(headers)[b"inference-header-content-length"])

    assert body[length:] == struct.pack("<I", 3) + "很".encode() + struct.pack("<I", 1) + b"a"
    (tensor,) = json.loads(body[:length])["inputs"]
    answer = json.dumps({"outputs": [tensor]}).encode()
    assert decode(answer + body[length:], len(answer))["x"].tolist() == ["很".encode(), b"a"]


def test_an_array_the_protocol_has_no_type_for_is_refused_before_it_is_sent() -> None:
    with pytest.raises(TypeError, match="complex128"):
        encode({"x": np.array([1j])}, None, binary=True)
