"""Compiled nets: machine code made of a program once (AOTInductor), for any number of rows and steps.

Deploy walk: replica.py -> precision.py -> [compiled.py]
One program is compiled for all shapes that it takes, before the replica is ready: nothing is left that could compile
while a request waits, as torch.compile would for a shape that it has not met. What was made is kept, and the next
replica of the same bundle on this machine takes it from there.
"""
# Shapes: B rows of a batch, T steps of a row.

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
from torch import Tensor, fx, nn

from training.bundle.exported_program import export_program
from training.errors import UserError

# Without steps of their own these do not compile for any number of them: torch takes them apart step by step.
UNROLLED_OPERATORS = {"gru", "rnn_tanh", "rnn_relu"}


class CompiledNet(nn.Module):
    """Machine code in the place of a net."""

    def __init__(self, package: Path) -> None:
        super().__init__()
        self._run = torch._inductor.aoti_load_package(str(package))

    def forward(self, x: Tensor) -> Any:
        """The same shapes as the net's."""
        # It was made for rows that lie one after another in memory, and does not look.
        return self._run(x.contiguous())


def load_compiled(net: nn.Module, x: Tensor, most_steps: int | None, cache: Path, key: str) -> CompiledNet:
    """Compile a net, or take what was made of it before.

    Args:
        net: a program's module, or one that wraps it, on the device that it shall run on.
        x: two rows or more, shape (B, ...) or (B, T, ...), on that device.
        most_steps: the longest T, where rows have steps.
        cache: this folder keeps what is made, and all that the compilers write on the way.
        key: which net it is, in which precision, on which kind of device.

    Raises:
        Mistake: it cannot be compiled; the message says why.
    """
    folder = cache / f"{key}-{_machine_key()}"
    package = folder / "net.pt2"
    folder.mkdir(parents=True, exist_ok=True)
    # Replicas that start at the same time wait for the first: compiling takes all of a machine's cores.
    with (folder / "lock").open("w") as lock, _scratch_folder(cache / "scratch"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not package.exists():
            _check_compilable(net)
            made = folder / f"{os.getpid()}.pt2"
            _compile(net, x, most_steps, made)
            # Whole or not at all.
            made.replace(package)
        return CompiledNet(package)


def _check_compilable(net: nn.Module) -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    graphs = [module.graph for module in net.modules() if isinstance(module, fx.GraphModule)]
    schemas = [getattr(node.target, "_schema", None) for graph in graphs for node in graph.nodes]
    found = {str(schema.name).split("::")[-1] for schema in schemas if schema is not None} & UNROLLED_OPERATORS
    if found:
        raise UserError(f"it holds {', '.join(sorted(found))}, whose number of steps torch would fix")
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UserError("no C++ compiler is on this machine; install one (Debian: apt-get install g++)") from None


def _compile(net: nn.Module, x: Tensor, most_steps: int | None, package: Path) -> None:
    options = {
        # Processes that compile beside each other would outlive the work, and there is one file to compile.
        "compile_threads": 1,
        # They serve whoever compiles many files.
        "cpp_cache_precompile_headers": False,
    }
    try:
        with torch.no_grad(), torch._inductor.config.patch(options), warnings.catch_warnings():
            # Of torch's own, about torch's own.
            warnings.simplefilter("ignore")
            exported = export_program(net, x, most_steps)
            exported.example_inputs = ((x,), {})
            torch._inductor.aoti_compile_and_package(exported, package_path=str(package))
    except UserError:
        raise
    except Exception as error:  # compilers raise many unrelated types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(reason) from error


def _machine_key() -> str:
    """What machine code depends on beside the net: this machine, its threads, and torch."""
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
    """Keep what torch and the compilers write in this folder: not in /tmp, not in a user's own cache."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": folder / "triton", "TMPDIR": folder}
    before, before_python = {name: os.environ.get(name) for name in names}, tempfile.tempdir
    os.environ.update({name: str(path) for name, path in names.items()})
    tempfile.tempdir = None
    try:
        yield
    finally:
        tempfile.tempdir = before_python
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
