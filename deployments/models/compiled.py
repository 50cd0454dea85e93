"""Compiled nets: machine code made from a program once (AOTInductor), for any number of rows and time steps.

Deploy walk: variants.py -> [compiled.py] -> torch_internals.py
One program is compiled for all shapes that it takes, before the replica is ready: no request waits for a compilation,
as with torch.compile, which compiles when it meets a new shape. The machine code is kept in a cache, where the next
replica of the same bundle on this machine finds it.
"""
# Shapes: B rows of a batch, T time steps.

import contextlib
import fcntl
import hashlib
import os
import platform
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deployments.models import torch_internals
from training.bundle.exported_program import export_program
from training.bundle.program.interpreter import ProgramModule
from training.errors import UserError

# torch decomposes these time step by time step, so they do not compile for a dynamic number of time steps.
UNROLLED_OPERATORS = {"gru", "rnn_tanh", "rnn_relu"}


class CompiledNet(nn.Module):
    """Machine code in the place of a net."""

    def __init__(self, package: Path) -> None:
        super().__init__()
        self._run = torch_internals.load_package(package)

    def forward(self, x: Tensor) -> Any:
        """The same shapes as the net's."""
        # The machine code requires a contiguous input and does not check it.
        return self._run(x.contiguous())


def load_compiled(net: nn.Module, x: Tensor, max_time_steps: int | None, cache: Path, key: str) -> CompiledNet:
    """Load a net's machine code from the cache, compiling it first where it is not there.

    Args:
        net: a program's module, or one that wraps it, on the device that it will run on.
        x: at least two rows, shape (B, ...) or (B, T, ...), on that device.
        max_time_steps: maximum of T; None where rows have no time axis.
        cache: folder of the machine code, and of what the compilers write while they run.
        key: identifies the net, its precision and the kind of device.

    Raises:
        UserError: it cannot be compiled; the message says why.
    """
    folder = cache / f"{key}-{_build_machine_key()}"
    package = folder / "net.pt2"
    folder.mkdir(parents=True, exist_ok=True)
    # Replicas that start at the same time wait for the first: compiling takes all of a machine's cores.
    with (folder / "lock").open("w") as lock, _scratch_folder(cache / "scratch"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not package.exists():
            _check_compilable(net)
            unfinished = folder / f"{os.getpid()}.pt2"
            _compile(net, x, max_time_steps, unfinished)
            # Rename is atomic: a replica sees the complete package or none.
            unfinished.replace(package)
        return CompiledNet(package)


def _check_compilable(net: nn.Module) -> None:
    programs = [module for module in net.modules() if isinstance(module, ProgramModule)]
    unrolled = sorted({name for program in programs for name in program.operators} & UNROLLED_OPERATORS)
    if unrolled:
        raise UserError(f"it uses {', '.join(unrolled)}, which torch compiles for one number of time steps only")
    torch_internals.check_cpp_compiler()


def _compile(net: nn.Module, x: Tensor, max_time_steps: int | None, package: Path) -> None:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch's own, about its own code.
            warnings.simplefilter("ignore")
            torch_internals.compile_package(export_program(net, x, max_time_steps), x, package)
    except UserError:
        raise
    except Exception as error:  # compilers raise many unrelated types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(reason) from error


def _build_machine_key() -> str:
    """Identify what machine code depends on besides the net: this machine, its threads, and torch."""
    parts = (
        platform.node(),
        torch.backends.cpu.get_cpu_capability(),
        str(torch.get_num_threads()),
        torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        str(torch.__version__),
    )
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _scratch_folder(folder: Path) -> Iterator[None]:
    """Make torch and the compilers write their temporary files here, not in /tmp or the user's own cache."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": folder / "triton", "TMPDIR": folder}
    old_values, old_tempdir = {name: os.environ.get(name) for name in paths}, tempfile.tempdir
    os.environ.update({name: str(path) for name, path in paths.items()})
    # tempfile keeps the first folder that it found.
    tempfile.tempdir = None
    try:
        yield
    finally:
        tempfile.tempdir = old_tempdir
        for name, value in old_values.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
