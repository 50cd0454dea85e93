"""Private names of torch that serving a net needs, checked against torch 2.13.0; used by no other of its files.

| private name | used for | what torch lacks in public | with another torch |
|---|---|---|---|
| `torch._inductor.aoti_compile_and_package`, `aoti_load_package`, `config.patch` | machine code from a program, and \
its options | AOTInductor is documented under these names only | the deployment with --compile is refused |
| `torch._inductor.cpp_builder.get_cpp_compiler`, `exc.InvalidCxxCompiler` | whether there is a C++ compiler, before \
minutes of work | no such query | the same |

While requests are served, only what our `load_package` returned runs. A test fails when the installed torch is not
TORCH_VERSION.
"""
# Shapes: B rows of a batch, T time steps.

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.errors import UserError

TORCH_VERSION = "2.13.0"

_COMPILE_OPTIONS = {
    # Worker processes would outlive the compilation, and there is one file to compile.
    "compile_threads": 1,
    # Precompiled headers pay for many files only.
    "cpp_cache_precompile_headers": False,
}


def check_cpp_compiler() -> None:
    """Check that this machine has a C++ compiler.

    Raises:
        UserError: it has none, or this torch has no such query.
    """
    cpp_builder, exceptions = _import_inductor("cpp_builder"), _import_inductor("exc")
    try:
        cpp_builder.get_cpp_compiler()
    except exceptions.InvalidCxxCompiler:
        raise UserError("no C++ compiler is on this machine; install one (Debian: apt-get install g++)") from None


def compile_package(program: torch.export.ExportedProgram, x: Tensor, package: Path) -> None:
    """Compile a program to machine code (AOTInductor).

    Args:
        program: exported with dynamic shapes.
        x: an example input, shape (B, ...) or (B, T, ...).
        package: the file to write.
    """
    inductor = _import_inductor()
    program.example_inputs = ((x,), {})
    with torch.no_grad(), inductor.config.patch(_COMPILE_OPTIONS):
        inductor.aoti_compile_and_package(program, package_path=str(package))


def load_package(package: Path) -> Callable[[Tensor], Any]:
    """Load what `compile_package` wrote; its input must be contiguous, which it does not check."""
    run: Callable[[Tensor], Any] = _import_inductor().aoti_load_package(str(package))
    return run


def _import_inductor(name: str = "") -> Any:
    try:
        inductor = importlib.import_module("torch._inductor")
        importlib.import_module("torch._inductor.config")
        return importlib.import_module(f"torch._inductor.{name}") if name else inductor
    except ImportError as error:
        raise UserError(
            f"torch {torch.__version__} has another compiler ({error}); install torch {TORCH_VERSION}"
        ) from error
