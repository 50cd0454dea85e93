"""Private names of torch: read in the installed version, and what happens without them."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from deployments.models import torch_internals
from training.bundle.exported_program import export_program
from training.errors import UserError


def test_the_private_names_were_read_in_the_installed_torch() -> None:
    installed = torch.__version__.split("+")[0]

    assert installed == torch_internals.READ_VERSION, (
        "read deployments/models/torch_internals.py against this torch, then set READ_VERSION"
    )


def test_removing_the_input_checks_lets_any_shape_in_and_changes_no_output() -> None:
    x = torch.randn(2, 3)
    net = export_program(nn.Linear(3, 2).eval(), x).module()
    expected = net(x)
    with pytest.raises(Exception, match="3"):
        net(torch.randn(2, 4))

    torch_internals.remove_input_checks(net)

    assert not net._forward_pre_hooks
    assert torch.equal(net(x), expected)


def test_an_operators_name_has_neither_namespace_nor_overload() -> None:
    net = export_program(nn.Linear(3, 2).eval(), torch.randn(2, 3)).module()
    assert isinstance(net, fx.GraphModule)

    names = {torch_internals.get_operator_name(node) for node in net.graph.nodes}

    assert names == {"", "linear"}


def test_without_the_compilers_module_a_compiled_deployment_is_refused_with_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch._inductor.cpp_builder", None)

    installed = re.escape(torch.__version__)
    with pytest.raises(UserError, match=rf"torch {installed} has another compiler .* install torch 2\."):
        torch_internals.check_cpp_compiler()
