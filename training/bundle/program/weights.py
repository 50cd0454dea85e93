"""Weights: the stored tensors of a program, brought into memory and onto a device.

Deploy walk: interpreter.py -> [weights.py] -> stored_tensors.py
Each member of the archive is read once; tensors that shared memory when they were saved share it again.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from training.bundle.program.archive import Member
from training.bundle.program.stored_tensors import StoredTensor
from training.errors import BundleError


def load_tensors(path: Path, tensors: dict[str, StoredTensor], device: str) -> dict[str, Tensor]:
    """Load tensors from an archive.

    Raises:
        BundleError: the file is shorter than when it was checked.
    """
    memories: dict[Member, Tensor] = {}
    loaded: dict[str, Tensor] = {}
    with path.open("rb") as stream:
        for name, stored in tensors.items():
            if stored.member not in memories:
                # torch's own memory, not a bytearray: its alignment decides how MKL sums.
                memory = torch.empty(stored.member.size, dtype=torch.uint8)
                stream.seek(stored.member.offset)
                if stream.readinto(memory.numpy()) != stored.member.size:  # type: ignore[arg-type]
                    raise BundleError(f"{path.name} became shorter while it was read; fetch the bundle again")
                dtype = getattr(torch, stored.dtype)
                # Bytes other than 0 and 1 are no truth values, and torch trusts them.
                memory = memory.ne(0) if dtype is torch.bool else memory.view(dtype)
                memories[stored.member] = memory.to(device)
            tensor = memories[stored.member].as_strided(stored.shape, stored.strides, stored.offset)
            loaded[name] = nn.Parameter(tensor, stored.requires_grad) if stored.is_parameter else tensor
    return loaded
