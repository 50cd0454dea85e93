"""The private names of torch that exporting needs."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.bundle import torch_internals
from training.bundle.exported_program import export_program
from training.bundle.torch_internals import TORCH_VERSION, keep_recurrent_ops
from training.errors import UserError


class LastState(nn.Module):
    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=batch_first)

    def forward(self, x_BTF: Tensor) -> Tensor:
        y_BTH: Tensor = self.lstm(x_BTF)[0]
        return y_BTH[:, -1]


def test_the_installed_torch_is_the_one_whose_internals_were_read() -> None:
    installed = torch.__version__.partition("+")[0]

    assert installed == TORCH_VERSION, "read training/bundle/torch_internals.py and program/ against it"


def test_a_recurrent_net_is_exported_with_a_dynamic_time_dimension() -> None:
    net = LastState().eval()

    program = export_program(net, torch.randn(2, 5, 3), max_time_steps=100)

    x_BTF = torch.randn(3, 17, 3)
    assert torch.equal(program.module()(x_BTF), net(x_BTF))


def test_torch_is_left_as_it_was() -> None:
    operators, key = torch_internals._find_operators()
    kernels = [dict(operator.py_kernels) for operator in operators]

    with keep_recurrent_ops(LastState()):
        assert all(key in operator.py_kernels for operator in operators)

    assert [dict(operator.py_kernels) for operator in operators] == kernels


def test_a_net_whose_first_dimension_is_time_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match="set batch_first=True"):
        export_program(LastState(batch_first=False).eval(), torch.randn(2, 5, 3), max_time_steps=100)


def test_a_torch_without_these_names_refuses_recurrent_nets_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_nothing() -> None:
        raise AttributeError("no attribute 'py_kernels'")

    monkeypatch.setattr(torch_internals, "_find_operators", find_nothing)

    export_program(nn.Linear(3, 2).eval(), torch.randn(2, 3))
    with pytest.raises(
        UserError, match=rf"cannot be exported with torch {torch.__version__.split('+')[0]}.*py_kernels"
    ):
        export_program(LastState().eval(), torch.randn(2, 5, 3), max_time_steps=100)
