"""Operators that end a process when they are called with what torch's own modules never give them: they get it not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.bundle.program import fuzz_operators
from training.bundle.program.arguments import check_arguments
from training.bundle.program.graph import Node, ValueReference
from training.bundle.program.operators import ATEN
from training.bundle.program.torch_functions import find_function

SMALLEST = torch.iinfo(torch.int64).min


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call an operator as a program does."""
    target = f"{ATEN}{name}"
    return fuzz_operators.call_as_program(find_function(target), target, list(args), kwargs)


def list_lstm_arguments() -> list[Any]:
    """Of one layer, 3 features, 4 hidden, 2 rows of 5 steps."""
    weights = [torch.zeros(16, 3), torch.zeros(16, 4), torch.zeros(16), torch.zeros(16)]
    states = [torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)]
    return [torch.ones(2, 5, 3), states, weights, True, 1, 0.0, False, False, True]


def test_what_fits_is_computed() -> None:
    assert call("lstm.input", *list_lstm_arguments())[0].shape == (2, 5, 4)
    assert call("zeros.default", [2, 2], dtype=torch.int8, device=torch.device("cpu")).dtype == torch.int8
    assert call("add.Tensor", torch.ones(2), 1).tolist() == [2, 2]
    assert call("max_pool1d.default", torch.ones(1, 1, 6), [2]).shape == (1, 1, 3)
    assert call("upsample_nearest2d.vec", torch.ones(1, 1, 2, 2), None, [2.0, 2.0]).shape == (1, 1, 4, 4)
    assert call("repeat_interleave.self_Tensor", torch.ones(2), torch.tensor([1, 2])).shape == (3,)
    divided = call("div.Tensor_mode", torch.tensor([-7, SMALLEST]), torch.tensor([-1, 2]), rounding_mode="trunc")
    assert divided.tolist() == [7, SMALLEST // 2]
    bag = call("embedding_bag.default", torch.ones(4, 2), torch.tensor([0, 1, 2]), torch.tensor([0, 1]))
    assert bag[0].tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("zeros.default", [[2]], {"dtype": 128}),
        ("view.dtype", [torch.ones(2), 3], {}),
        ("clone.default", [torch.ones(2)], {"memory_format": 4}),
        ("clone.default", [torch.ones(2)], {"memory_format": torch.float32}),
        ("copy.default", [torch.ones(2), None], {}),
        ("cat.default", [[torch.ones(2), None]], {}),
        ("relu.default", [None], {}),
        ("to.device", [torch.ones(2), "cuda", torch.float32], {}),
        ("sum.dim_IntList", [torch.ones(2), ["a"]], {}),
        ("sum.dim_IntList", [torch.ones(2), [[0]]], {}),
        ("relu.default", [torch.ones(2), 1, 2], {}),
        ("relu.default", [torch.ones(2)], {"x": 1}),
    ],
)
def test_an_argument_of_another_kind_is_refused(name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"another kind is given|takes .* arguments by position|has no argument"):
        call(name, *args, **kwargs)


@pytest.mark.parametrize("name", ["remainder.int", "gcd.int", "ldexp.default", "frexp.default"])
def test_operators_of_torchscript_alone_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is of TorchScript"):
        call(name, 1, 0)


def test_a_result_that_the_operator_does_not_return_has_no_name() -> None:
    operator: Any = find_function(f"{ATEN}relu.default")
    node = Node(f"{ATEN}relu.default", (ValueReference("x"),), {}, ("y", "z"), "")

    with pytest.raises(ValueError, match="returns 1 values, the program names others"):
        check_arguments(operator, node)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, torch.ones(2, 5, 7)),
        (0, torch.ones(2, 5, 3, dtype=torch.float64)),
        (0, torch.ones(5, 3)),
        (1, [torch.zeros(1, 2, 4)]),
        (1, [torch.zeros(1, 9, 4), torch.zeros(1, 9, 4)]),
        (1, [torch.zeros(1, 2, 4000), torch.zeros(1, 2, 4)]),
        (1, [torch.zeros(1, 2, 4), torch.zeros(7, 2, 4)]),
        (2, [torch.zeros(16, 3), torch.zeros(16, 4)]),
        (2, [torch.zeros(16, 3), torch.zeros(2, 4), torch.zeros(16), torch.zeros(16)]),
        (2, [torch.zeros(16, 3), torch.zeros(16, 4), torch.zeros(1), torch.zeros(16)]),
        (4, 1000),
        (7, True),
    ],
)
def test_recurrent_layers_get_states_and_weights_that_fit_one_another(position: int, value: Any) -> None:
    arguments = list_lstm_arguments()
    arguments[position] = value

    with pytest.raises(ValueError, match=r"what it cannot take: .*(sizes|datatypes|states|dimensions)"):
        call("lstm.input", *arguments)


@pytest.mark.parametrize(
    ("name", "args", "rule"),
    [
        ("embedding_bag.default", [torch.ones(4, 2), torch.zeros(2, 2).long(), torch.tensor([0])], "one dimension"),
        ("embedding_bag.default", [torch.ones(4, 2), torch.zeros(2).long(), torch.tensor([0, 9])], "rise from 0"),
        ("embedding_bag.default", [torch.ones(4, 2), torch.zeros(2).long(), torch.tensor([0, 2, 1])], "rise from 0"),
        ("grid_sampler_2d.default", [torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 1, 2), 7, 0, False], "0, 1 or 2"),
        ("grid_sampler.default", [torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 1, 2), 0, -1, False], "0, 1 or 2"),
        ("repeat_interleave.self_Tensor", [torch.ones(2), torch.tensor([2**62, 2**62])], "repeats are"),
        ("repeat_interleave.self_Tensor", [torch.ones(2), torch.tensor([-1, 3])], "repeats are"),
        ("_upsample_bilinear2d_aa.default", [torch.ones(1, 1, 4, 4), [4, 4], False, 1e-30, 1e-30], "scales that fit"),
        ("upsample_nearest2d.default", [torch.ones(1, 1, 4, 4), [8, 8], float("nan"), 1.0], "scales above 0"),
        ("max_pool1d.default", [torch.ones(1, 1, 4), [2**62], [1], [0], [2**62]], "at most"),
        ("conv1d.default", [torch.ones(1, 1, 4), torch.ones(1, 1, 1), None, [1], [2**62]], "at most"),
        ("floor_divide.default", [torch.tensor([SMALLEST]), torch.tensor([-1])], "divided by -1"),
        ("remainder.Tensor", [torch.tensor([SMALLEST]), torch.tensor([-1])], "divided by -1"),
        ("div.Tensor_mode", [torch.tensor([SMALLEST]), torch.tensor([-1])], "divided by -1"),
        ("div.Scalar_mode", [torch.tensor([-(2**31)], dtype=torch.int32), 2**32 - 1], "divided by -1"),
        (
            "div.Tensor_mode",
            [torch.tensor([-(2**31)], dtype=torch.int32), torch.tensor(2**32 - 1)],
            "divided by -1",
        ),
        ("matrix_power.default", [torch.eye(2), -(2**63)], "an exponent below"),
        ("linalg_matrix_power.default", [torch.eye(2), 2**31], "an exponent below"),
        ("gru_cell.default", [torch.ones(2, 3), torch.ones(2, 4), torch.ones(1, 3), torch.ones(12, 4)], "sizes"),
    ],
)
def test_operators_that_trust_their_arguments_are_called_with_what_fits(name: str, args: list[Any], rule: str) -> None:
    kwargs = {"rounding_mode": "trunc"} if name.endswith("_mode") else {}

    with pytest.raises(ValueError, match=f"what it cannot take: .*{rule}"):
        call(name, *args, **kwargs)


def test_attention_needs_heads_to_share_out() -> None:
    with pytest.raises(ValueError, match="at least one head"):
        call(
            "scaled_dot_product_attention.default",
            *(torch.ones(1, 4, 4), torch.ones(0, 4, 4), torch.ones(1, 4, 4)),
            enable_gqa=True,
        )


@pytest.mark.parametrize("reduction", [-3, 3, 2**20])
def test_a_loss_of_another_reduction_would_return_memory_that_nothing_has_written(reduction: int) -> None:
    with pytest.raises(ValueError, match="0, 1 and 2 are none, mean and sum"):
        call("soft_margin_loss.default", torch.zeros(1, 1, 0), torch.zeros(1, 1, 0), reduction)


@pytest.mark.parametrize("name", ["median.dim", "nanmedian.dim"])
def test_the_median_of_an_expanded_tensor_is_of_its_own_values(name: str) -> None:
    values, indices = call(name, torch.arange(5.0)[::2].expand(3, 3), 0)

    assert values.tolist() == [0, 2, 4]
    assert call(name, torch.ones(1).expand(10**6), 0)[0] == 1
    assert max(indices.tolist()) <= 2


def test_functions_of_sizes_take_no_texts_and_no_lists() -> None:
    for target, values in (("_operator.mod", ("%9d", 1)), ("_operator.mul", ("a", 9)), ("_operator.add", ([1], [2]))):
        with pytest.raises(TypeError, match="a function of sizes is given something else"):
            find_function(target)(*values)


def test_views_beyond_a_tensors_own_memory_are_not_listed() -> None:
    with pytest.raises(ValueError, match="reaches beyond its tensor; use slices, unfold or flip"):
        find_function(f"{ATEN}as_strided.default")


@pytest.mark.soak
def test_no_operator_ends_the_process_whatever_it_is_given() -> None:
    result = subprocess.run(
        [sys.executable, fuzz_operators.__file__, "60"],
        env={"PYTHONPATH": str(Path(__file__).parents[4]), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert int(result.stdout.split()[0]) > 900
