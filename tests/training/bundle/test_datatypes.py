"""The table of tensor datatypes, against the libraries that it names."""

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from deployments.protocols.grpc.messages import ModelInferRequest
from training.bundle.datatypes import (
    DATATYPES,
    Datatype,
    datatype_of_numpy,
    datatype_of_torch,
    numpy_dtype,
    torch_dtype,
)


def test_every_datatype_is_in_the_table() -> None:
    assert tuple(DATATYPES) == get_args(Datatype)


@pytest.mark.parametrize("name", DATATYPES)
def test_a_datatype_and_its_torch_dtype_convert_to_each_other(name: Datatype) -> None:
    assert datatype_of_torch(torch_dtype(name)) == name
    assert torch_dtype(name).itemsize == DATATYPES[name].itemsize


@pytest.mark.parametrize("name", sorted(set(DATATYPES) - {"BF16"}))
def test_a_datatype_and_its_numpy_dtype_convert_to_each_other(name: Datatype) -> None:
    assert datatype_of_numpy(numpy_dtype(name)) == name
    assert datatype_of_numpy(numpy_dtype(name).newbyteorder(">")) == name
    assert numpy_dtype(name).itemsize == DATATYPES[name].itemsize
    assert torch.from_numpy(np.zeros(1, numpy_dtype(name))).dtype == torch_dtype(name)


def test_bfloat16_is_float32_in_numpy() -> None:
    assert numpy_dtype("BF16") == np.float32
    assert datatype_of_numpy(np.dtype(np.float32)) == "FP32"


def test_a_dtype_without_a_datatype_has_none() -> None:
    assert datatype_of_torch(torch.complex64) is None
    assert datatype_of_numpy(np.dtype(np.complex64)) is None


def test_the_grpc_fields_are_those_of_the_protocol() -> None:
    contents = ModelInferRequest.InferInputTensor().contents

    for datatype in DATATYPES.values():
        assert datatype.grpc_field is None or hasattr(contents, datatype.grpc_field), datatype


def test_the_table_is_imported_without_torch_and_numpy() -> None:
    code = "import sys, training.bundle.datatypes; print({'torch', 'numpy'} & set(sys.modules))"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (result.stdout, result.stderr) == ("set()\n", "")
