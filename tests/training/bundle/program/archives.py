"""Helpers: programs whose archive is changed, as a hostile author can."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.bundle.exported_program import export_program

WEIGHTS_CONFIG = "data/weights/model_weights_config.json"
MODEL = "models/model.json"


def save_program(folder: Path, net: nn.Module | None = None) -> Path:
    """Save a linear layer of 2 features and 3 classes, or another net for 2 features."""
    torch.manual_seed(0)
    program = export_program((net or nn.Linear(2, 3)).eval(), torch.randn(2, 2))
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


def read_members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write_members(file: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)


def change_json(file: Path, member: str, change: Callable[[Any], None]) -> None:
    """Change a JSON member in place."""
    members = read_members(file)
    document = json.loads(members[member])
    change(document)
    write_members(file, members | {member: json.dumps(document).encode()})
