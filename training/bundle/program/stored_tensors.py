"""Stored tensors: which bytes of the archive are which weight; bounds are checked before anything is allocated.

Deploy walk: reader.py -> [stored_tensors.py]
Imports no torch.
"""

import math
from dataclasses import dataclass

from training.bundle.program import document
from training.bundle.program.archive import Member

SCALAR_TYPES: dict[int, tuple[str, int]] = {
    1: ("uint8", 1),
    2: ("int8", 1),
    3: ("int16", 2),
    4: ("int32", 4),
    5: ("int64", 8),
    6: ("float16", 2),
    7: ("float32", 4),
    8: ("float64", 8),
    9: ("complex32", 4),
    10: ("complex64", 8),
    11: ("complex128", 16),
    12: ("bool", 1),
    13: ("bfloat16", 2),
    28: ("uint16", 2),
    34: ("uint32", 4),
    35: ("uint64", 8),
}
"""torch's name and the bytes of an element, by the number in the archive (`ScalarType` of torch's schema)."""

# Each module takes some kilobytes, whatever it holds.
_MAX_NAME_PARTS, _MAX_MODULES = 16, 20_000


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in the archive.

    Attributes:
        member: its bytes, which other tensors may share.
        dtype: as torch names it.
        shape: sizes of its dimensions.
        strides: in elements.
        offset: of its first element, in elements.
        is_parameter: whether the net has it as a parameter, not as a buffer.
        is_persistent: whether it is in the net's state_dict.
        requires_grad: of a parameter.
    """

    member: Member
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    is_parameter: bool
    is_persistent: bool
    requires_grad: bool


def read_stored_tensors(
    members: dict[str, Member], weights: dict[str, document.Payload], constants: dict[str, document.Payload]
) -> dict[str, StoredTensor]:
    """Check that every tensor lies within the bytes of its member.

    Args:
        members: of the archive.
        weights: what state_dict holds.
        constants: buffers that it does not hold, and constants.

    Raises:
        ValueError: a tensor is pickled, listed twice, larger than its bytes, or its member is missing.
    """
    if weights.keys() & constants.keys():
        raise ValueError(f"{min(weights.keys() & constants.keys())} is both a weight and a constant")
    tensors: dict[str, StoredTensor] = {}
    dtypes: dict[str, str] = {}
    for folder, prefix, payloads in (("weights", "weight_", weights), ("constants", "tensor_", constants)):
        for name, payload in payloads.items():
            path = f"data/{folder}/{payload.path_name}"
            if not payload.path_name.startswith(prefix) or path not in members:
                raise ValueError(f"{name} is in {path}, which it does not hold")
            tensors[name] = _read_stored_tensor(name, payload, members[path], folder == "weights")
            if dtypes.setdefault(path, tensors[name].dtype) != tensors[name].dtype:
                raise ValueError(f"{name} shares {path} with a tensor of another datatype")
    _check_names(tensors)
    return tensors


def _read_stored_tensor(name: str, payload: document.Payload, member: Member, is_weight: bool) -> StoredTensor:
    meta = payload.tensor_meta
    if payload.use_pickle or meta is None:
        raise ValueError(f"it holds {name} as a pickle")
    dtype, itemsize = SCALAR_TYPES[meta.dtype]
    shape, strides = tuple(size.as_int for size in meta.sizes), tuple(stride.as_int for stride in meta.strides)
    if len(shape) != len(strides):
        raise ValueError(f"{name} has {len(shape)} dimensions and {len(strides)} strides")
    elements, rest = divmod(member.size, itemsize)
    extent = 0
    if 0 not in shape:
        extent = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # A dimension of stride 0 makes many elements of few bytes: the first copy of it would take any amount of memory.
    if rest or meta.storage_offset.as_int + extent > elements or math.prod(shape) > elements:
        raise ValueError(
            f"{name} of shape {shape}, strides {strides} and offset {meta.storage_offset.as_int} in {dtype} is not "
            f"within its {member.size} bytes; give the net contiguous tensors"
        )
    return StoredTensor(
        member,
        dtype,
        shape,
        strides,
        meta.storage_offset.as_int,
        is_parameter=payload.is_param,
        is_persistent=is_weight,
        requires_grad=meta.requires_grad,
    )


def _check_names(tensors: dict[str, StoredTensor]) -> None:
    """Raise ValueError where one name is a folder of another, or the names make more modules than any net has."""
    modules = set()
    for name in tensors:
        parts = name.split(".")
        if len(parts) > _MAX_NAME_PARTS:
            raise ValueError(f"{name:.100} has {len(parts)} parts; at most {_MAX_NAME_PARTS} are read")
        for i in range(1, len(parts)):
            module = ".".join(parts[:i])
            if module in tensors:
                raise ValueError(f"{name} is inside {module}, which is a tensor")
            modules.add(module)
    if len(modules) > _MAX_MODULES:
        raise ValueError(f"its weights are in {len(modules)} modules; at most {_MAX_MODULES} are read")
