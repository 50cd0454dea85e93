"""The list of operators, against all schemas of the installed torch."""

from typing import Any

import pytest
import torch

from training.bundle.program.operators import OPERATORS, SIZE_FUNCTIONS, UNWRITTEN, check_target
from training.bundle.program.torch_functions import find_function

SCHEMAS: list[Any] = [schema for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("aten::")]


def get_target(schema: Any) -> str:
    return f"torch.ops.{schema.name.replace('::', '.')}.{schema.overload_name or 'default'}"


def is_allowed(target: str) -> bool:
    try:
        check_target(target)
    except ValueError:
        return False
    return True


ALLOWED = [schema for schema in SCHEMAS if is_allowed(get_target(schema))]


def test_every_listed_operator_exists_in_the_installed_torch() -> None:
    names = {schema.name.removeprefix("aten::") for schema in SCHEMAS}

    assert {name for name in OPERATORS if not {name, f"{name}_"} & names} == set()
    assert len(ALLOWED) > 1000


def test_no_allowed_operator_writes_to_anything_but_its_first_argument() -> None:
    written = [
        get_target(schema)
        for schema in ALLOWED
        if any(argument.alias_info and argument.alias_info.is_write for argument in schema.arguments[1:])
    ]

    assert written == []


def test_allowed_operators_take_and_return_tensors_and_plain_values_only() -> None:
    types = {str(value.type) for schema in ALLOWED for value in (*schema.arguments, *schema.returns)}
    plain = {name for kind in PLAIN for name in (kind, f"Optional[{kind}]", f"List[{kind}]", f"Optional[List[{kind}]]")}

    assert types - plain == {"List[Optional[Tensor]]", "Optional[Generator]"}


PLAIN = ("Tensor", "int", "number", "bool", "float", "complex", "str", "Device")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("torch.ops.aten.from_file.default", "reads or writes a file"),
        ("torch.ops.aten.save.default", "reads or writes a file"),
        ("torch.ops.aten.set_.source_Storage", "moves a tensor to other memory"),
        ("torch.ops.aten.set_data.default", "moves a tensor to other memory"),
        ("torch.ops.aten.resize_.default", "moves a tensor to other memory"),
        ("torch.ops.aten.empty_strided.default", "memory that nothing has written; use torch.zeros"),
        ("torch.ops.aten.new_empty_strided.default", "memory that nothing has written; use torch.zeros"),
        ("torch.ops.aten.manual_seed.default", "changes the state of the process"),
        ("torch.ops.aten.set_grad_enabled.default", "changes the state of the process"),
        ("torch.ops.aten.warn.default", "writes to the process's output"),
        ("torch.ops.aten._reshape_alias.default", "does not check the indices"),
        ("torch.ops.aten._unsafe_index.Tensor", "does not check the indices"),
        ("torch.ops.aten.lstm.data", "trusts the batch sizes"),
        ("torch.ops.aten.add.out", "writes to a tensor that it is given"),
        ("torch.ops.aten.quantize_per_tensor.default", "is of quantized nets"),
        ("torch.ops.aten.to_sparse.default", "is of sparse tensors"),
        ("torch.ops.aten.convolution_backward.default", "is of training"),
        ("torch.ops.higher_order.while_loop", "is none of the control flow that is read: cond"),
        ("torch.ops.higher_order.call_torchbind", "is none of the control flow"),
        ("torch.ops.prim.Print.default", "is none of the operators"),
        ("torch.os.system", "is none of the operators"),
        ("torch.ops.aten.linear", "is none of the operators"),
        ("torch.ops.aten.linear.default.__class__", "is none of the operators"),
        ("torch.ops.aten.__getattr__.default", "is none of the operators"),
        ("_operator.attrgetter", "is none of the operators"),
        ("_operator.add.__call__", "is none of the operators"),
        ("math.factorial", "is none of the operators"),
        ("cond", "is none of the operators"),
        ("linear", "is none of the operators"),
        ("", "is none of the operators"),
    ],
)
def test_what_is_not_listed_is_refused_with_the_reason(target: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        find_function(target)


def test_every_refused_operator_of_torch_gets_a_reason_of_one_line() -> None:
    for schema in SCHEMAS:
        target = get_target(schema)
        if not is_allowed(target):
            with pytest.raises(ValueError) as caught:  # noqa: PT011  (the reason is compared below)
                check_target(target)
            assert str(caught.value).startswith(target)
            assert "\n" not in str(caught.value)


def test_functions_of_sizes_are_those_that_torch_serializes() -> None:
    from torch._export.serde.serialize import _SYM_OPS

    assert {f"{function.__module__}.{function.__name__}" for function in _SYM_OPS} == SIZE_FUNCTIONS


@pytest.mark.parametrize("target", sorted(SIZE_FUNCTIONS))
def test_every_function_of_sizes_can_be_called(target: str) -> None:
    assert callable(find_function(target))


@pytest.mark.parametrize("target", ["_operator.lshift", "_operator.mul", "_operator.pow"])
def test_a_size_that_would_fill_the_memory_is_an_error(target: str) -> None:
    function = find_function(target)

    assert function(3, 2) in (6, 9, 12)
    with pytest.raises(OverflowError, match="more than 128 bits"):
        function(2**100, 2**40)


def test_memory_that_nothing_has_written_is_zero() -> None:
    for name in UNWRITTEN:
        assert "zeros" in str(find_function(f"torch.ops.aten.{name}"))


@pytest.mark.parametrize(
    "attribute",
    [
        "__reduce_ex__",
        "__setattr__",
        "__getattr__",
        "__call__",
        "_op",
        "op",
        "overloads",
        "_schemas",
        "name",
        "__class__",
    ],
)
def test_an_attribute_of_an_operators_python_object_is_no_overload(attribute: str) -> None:
    # By abs.__reduce_ex__(2)[0] and abs.__setattr__("_op", ...) a program once reached exec.
    with pytest.raises(ValueError, match=r"none of the operators|no overload of an operator"):
        find_function(f"torch.ops.aten.abs.{attribute}")
