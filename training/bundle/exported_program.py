"""Exported program: a net as a torch.export program, which runs without its author's Python code.

Train walk: save.py -> [exported_program.py] -> torch_internals.py
Knows nothing of what the net is for.
"""
# Shapes: B rows of a batch (dynamic), T time steps (dynamic where rows have a time axis).

from pathlib import Path

import torch
from torch import Tensor, nn

from training.bundle.program.interpreter import ProgramModule
from training.bundle.program.reader import read_program
from training.bundle.torch_internals import keep_recurrent_ops
from training.errors import UserError


def export_program(net: nn.Module, inputs: Tensor, max_time_steps: int | None = None) -> torch.export.ExportedProgram:
    """Export a net in eval mode with a dynamic batch dimension.

    Args:
        net: takes one tensor.
        inputs: at least two rows, shape (B, ...) or (B, T, ...).
        max_time_steps: maximum of T, where rows have a time axis, which is then dynamic too; its minimum is 2.

    Raises:
        UserError: it cannot be exported with these dynamic dimensions.
    """
    dynamic_dims = {0: torch.export.Dim("batch", min=1)}
    if max_time_steps is not None:
        dynamic_dims[1] = torch.export.Dim("time", min=2, max=max(max_time_steps, 3))
    try:
        with keep_recurrent_ops(net):
            # contiguous: a view into longer rows would specialize the program to their length.
            program = torch.export.export(net, (inputs.contiguous(),), dynamic_shapes=(dynamic_dims,))
    except UserError:
        raise
    except Exception as error:  # torch.export raises many unrelated types
        reason = str(error).strip().splitlines()[0]
        dimensions = "a dynamic batch dimension" if max_time_steps is None else "dynamic batch and time dimensions"
        raise UserError(f"the net cannot be exported with {dimensions}: {reason}") from error
    # torch.export.save would pickle them into the archive; example.json holds a bundle's example.
    program.example_inputs = None
    return program


def load_program(path: Path, device: str = "cpu") -> ProgramModule:
    """Load a program onto a device, ready to run.

    Raises:
        BundleError: it holds anything that is not known to be harmless, or does not fit the installed torch.
    """
    return ProgramModule(read_program(path), device)
