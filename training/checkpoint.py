"""Checkpoints without pickle: tensors in safetensors, everything else in JSON.

Holds net, averaged net, optimiser, schedule and position. There is no random state to keep: every draw of the loop is
seeded by (recipe seed, epoch, rank), so the position says it all.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass
class Progress:
    """How far a run is, and the best it has seen."""

    epoch: int = 0
    best_score: float = float("-inf")
    best_epoch: int = 0


@dataclass(frozen=True)
class State:
    """Everything that a resumed run must find as it was."""

    nets: dict[str, nn.Module]
    optimiser: Optimizer
    schedule: LRScheduler
    progress: Progress


def save(folder: Path, state: State) -> None:
    """Write `state.safetensors` and `state.json` into a folder that nobody reads yet."""
    tensors: dict[str, Tensor] = {}
    for name, net in state.nets.items():
        tensors |= {f"{name}/{key}": value.detach().clone().contiguous() for key, value in net.state_dict().items()}
    optimiser = state.optimiser.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, slots in optimiser["state"].items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser/{index}/{slot}"] = value.detach().clone().contiguous()
            else:
                scalars.setdefault(str(index), {})[slot] = value
    save_file(tensors, folder / "state.safetensors")
    rest = {
        "groups": optimiser["param_groups"],
        "scalars": scalars,
        "schedule": state.schedule.state_dict(),
        "progress": vars(state.progress),
    }
    (folder / "state.json").write_text(json.dumps(rest))


def restore(folder: Path, state: State) -> None:
    """Bring nets, optimiser, schedule and progress back to what `save` saw; shapes and names must be the same."""
    tensors = load_file(folder / "state.safetensors")
    rest = json.loads((folder / "state.json").read_text())
    for name, net in state.nets.items():
        prefix = f"{name}/"
        net.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    slots: dict[int, dict[str, Any]] = {int(index): dict(found) for index, found in rest["scalars"].items()}
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            _, index, slot = key.split("/")
            slots.setdefault(int(index), {})[slot] = value
    state.optimiser.load_state_dict({"state": slots, "param_groups": rest["groups"]})
    state.schedule.load_state_dict(rest["schedule"])
    vars(state.progress).update(rest["progress"])
