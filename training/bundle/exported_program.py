"""A net as a torch.export program: written so that it holds no pickle, and refused where it might.

A program needs none of its author's Python code to run. Knows nothing of what the net is for.
"""
# Shapes: B rows of a batch (dynamic), T steps (dynamic where rows have any).

import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch.export.passes import move_to_device_pass

from training.errors import BundleError, UserError


def export_program(net: nn.Module, inputs: Tensor, max_time_steps: int | None = None) -> torch.export.ExportedProgram:
    """Turn a net in eval mode into a program that needs none of its Python code.

    Args:
        net: takes one tensor.
        inputs: at least two rows, shape (B, ...) or (B, T, ...).
        most_steps: the longest T, where rows have steps; a program takes 2 or more.

    Raises:
        Mistake: it cannot be exported with free dimensions.
    """
    free = {0: torch.export.Dim("batch", min=1)}
    if max_time_steps is not None:
        free[1] = torch.export.Dim("time", min=2, max=max(max_time_steps, 3))
    try:
        with _keep_recurrent_ops(), warnings.catch_warnings():
            # Recurrences keep their weights in a list beside the module, which nothing here assigns anew.
            warnings.filterwarnings("ignore", message=".*_flat_weights.* were assigned during export", module=".*")
            # A view into longer rows would bind the program to their length.
            program = torch.export.export(net, (inputs.contiguous(),), dynamic_shapes=(free,))
    except Exception as error:  # torch.export raises many unrelated types
        reason = str(error).strip().splitlines()[0]
        what = "a free batch dimension" if max_time_steps is None else "free batch and time dimensions"
        raise UserError(f"the net cannot be exported with {what}: {reason}") from error
    # torch.export would pickle its example inputs into the archive; ours stand in example.json.
    program.example_inputs = None
    return program


def load_program(path: Path, device: str = "cpu") -> nn.Module:
    """Bring a program onto a device, ready to run.

    Raises:
        BundleError: it may hold a pickle; see `refuse_pickles`.
    """
    refuse_pickles(path)
    program = torch.export.load(path)
    if device != "cpu":
        program = move_to_device_pass(program, device)
    return program.module()


@contextmanager
def _keep_recurrent_ops() -> Iterator[None]:
    """Keep nn.LSTM, nn.GRU and nn.RNN as one operator each.

    torch.export would take them apart step by step, and the number of steps would be the example's for ever.
    """
    key = DispatchKey.CompositeImplicitAutograd
    operators = [getattr(torch.ops.aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")]
    before = [operator.py_kernels.get(key) for operator in operators]
    for operator in operators:
        operator.py_kernels[key] = _recurrent_op_meta
        operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for operator, kernel in zip(operators, before, strict=True):
            if kernel is None:
                operator.py_kernels.pop(key)
            else:
                operator.py_kernels[key] = kernel
            operator._dispatch_cache.clear()


def _recurrent_op_meta(x: Tensor, states: Any, weights: Any, biases: bool, layers: int, *rest: Any) -> tuple[Any, ...]:
    """What a recurrence gives, in shape alone: all that an export needs to know of it."""
    both_ways, batch_first = rest[-2], rest[-1]
    assert batch_first, "set batch_first=True: every tensor of Shoal has its rows first"
    states = states if isinstance(states, list | tuple) else [states]
    width = states[0].shape[-1] * (2 if both_ways else 1)
    return x.new_empty(x.shape[0], x.shape[1], width), *(state.clone() for state in states)


# Every kind of member that a program without pickles has. torch.export.load would unpickle some of the others (example
# inputs, custom objects), and a bundle's checksums are its maker's own: what is not known here is refused.
_MEMBERS = re.compile(
    r"^[^/]+/(data/weights/(weight_\d+|[\w.]+_config\.json)|data/constants/(tensor_\d+|[\w.]+_config\.json)"
    r"|models/model\.json|archive_format|archive_version|\.data/version|\.data/serialization_id|byteorder)$"
)


def refuse_pickles(program: Path) -> None:
    """Refuse a program that would run code while it is loaded."""
    try:
        with zipfile.ZipFile(program) as archive:
            members = {m.filename: m for m in archive.infolist()}
            configs = [json.loads(archive.read(name)) for name in members if name.endswith("_config.json")]
    except (zipfile.BadZipFile, ValueError) as error:
        raise BundleError(f"{program.name} is not a torch.export archive: {error}") from error
    if not any(name.endswith("/archive_format") for name in members):
        raise BundleError(
            f"{program.name} is not a torch.export archive of format pt2; export it with torch {torch.__version__}"
        )
    for name, member in members.items():
        if not _MEMBERS.match(name) and not (name.endswith("/data/sample_inputs/model.pt") and member.file_size == 0):
            raise BundleError(
                f"{program.name} holds {name}, which may be a pickle; save it with training.bundle.bundle.save"
            )
    for config in configs:
        for name, payload in config.get("config", {}).items():
            if payload.get("use_pickle") is not False:
                raise BundleError(f"{program.name} holds {name} as a pickle; save it with training.bundle.bundle.save")
