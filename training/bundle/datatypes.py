"""Tensor datatypes: one table for bundles, protocols and the client, by their names in the Open Inference Protocol.

Imports neither torch nor numpy, so that the client can use it without them.
Source: Open Inference Protocol, "Tensor Data Types"; BF16 is Triton's addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64"
]
"""Datatypes of a net's tensors."""

BYTES = "BYTES"
"""The protocol's datatype of texts: elements of any length, so no tensor of a net has it."""


@dataclass(frozen=True)
class TensorDatatype:
    """One datatype in each library.

    Attributes:
        name: in the Open Inference Protocol.
        numpy: dtype string, little-endian. numpy has no bfloat16: BF16 values are held as float32.
        torch: attribute of the torch module.
        grpc_field: field of the protocol's InferTensorContents; None where it has none, so that elements are sent as
            raw bytes.
        itemsize: bytes of one element in a tensor and in the binary form of the protocol.
        exact_bits: the type holds every whole number up to 2**exact_bits; None for one that holds whole numbers only.
    """

    name: Datatype
    numpy: str
    torch: str
    grpc_field: str | None
    itemsize: int
    exact_bits: int | None = None


DATATYPES: dict[Datatype, TensorDatatype] = {
    datatype.name: datatype
    for datatype in (
        TensorDatatype("BOOL", "|b1", "bool", "bool_contents", 1),
        TensorDatatype("UINT8", "|u1", "uint8", "uint_contents", 1),
        TensorDatatype("UINT16", "<u2", "uint16", "uint_contents", 2),
        TensorDatatype("UINT32", "<u4", "uint32", "uint_contents", 4),
        TensorDatatype("UINT64", "<u8", "uint64", "uint64_contents", 8),
        TensorDatatype("INT8", "|i1", "int8", "int_contents", 1),
        TensorDatatype("INT16", "<i2", "int16", "int_contents", 2),
        TensorDatatype("INT32", "<i4", "int32", "int_contents", 4),
        TensorDatatype("INT64", "<i8", "int64", "int64_contents", 8),
        TensorDatatype("FP16", "<f2", "float16", None, 2, exact_bits=11),
        TensorDatatype("BF16", "<f4", "bfloat16", None, 2, exact_bits=8),
        TensorDatatype("FP32", "<f4", "float32", "fp32_contents", 4, exact_bits=24),
        TensorDatatype("FP64", "<f8", "float64", "fp64_contents", 8, exact_bits=53),
    )
}

_BY_TORCH_NAME = {datatype.torch: datatype.name for datatype in DATATYPES.values()}
_BY_NUMPY_DTYPE = {datatype.numpy: datatype.name for datatype in DATATYPES.values() if datatype.name != "BF16"}


# Cached: numpy takes 0.7 us to read a dtype string, as long as it takes to decode a small tensor.
@cache
def numpy_dtype(name: Datatype) -> np.dtype[Any]:
    """The numpy dtype of a datatype, little-endian; float32 for BF16."""
    import numpy as np

    return np.dtype(DATATYPES[name].numpy)


def torch_dtype(name: Datatype) -> torch.dtype:
    """The torch dtype of a datatype."""
    import torch

    dtype: torch.dtype = getattr(torch, DATATYPES[name].torch)
    return dtype


def datatype_of_torch(dtype: torch.dtype) -> Datatype | None:
    """The datatype of a torch dtype; None if the protocol has none for it."""
    return _BY_TORCH_NAME.get(str(dtype).removeprefix("torch."))


@cache
def datatype_of_numpy(dtype: np.dtype[Any]) -> Datatype | None:
    """The datatype of a numpy dtype of either byte order; None if the protocol has none for it."""
    return _BY_NUMPY_DTYPE.get(dtype.newbyteorder("<").str)
