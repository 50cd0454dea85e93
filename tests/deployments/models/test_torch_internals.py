"""Private names of torch: read in the installed version, and what happens without them."""

import re
import sys
from pathlib import Path

import pytest
import torch

# Before a part of it is taken away: half an import would stay in the process.
import torch._inductor.config
import torch._inductor.cpp_builder

from deployments.models import torch_internals
from training.errors import UserError


def test_the_private_names_were_read_in_the_installed_torch() -> None:
    installed = torch.__version__.split("+")[0]

    assert installed == torch_internals.TORCH_VERSION, (
        "read deployments/models/torch_internals.py against this torch, then set TORCH_VERSION"
    )


def test_without_the_compilers_module_a_compiled_deployment_is_refused_with_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch._inductor.cpp_builder", None)

    installed = re.escape(torch.__version__)
    with pytest.raises(UserError, match=rf"torch {installed} has another compiler .* install torch 2\."):
        torch_internals.check_cpp_compiler()
