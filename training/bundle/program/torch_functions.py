"""Torch functions: finds the function that a step calls, by the name that the program gives it.

Deploy walk: steps.py -> [torch_functions.py] -> operators.py
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from training.bundle.program.operators import ATEN, HIGHER_ORDER, SIZE_FUNCTIONS, UNWRITTEN, check_target

_MODULES = {"_operator": operator, "math": math, "torch": torch}
# Results may have many times the digits of the arguments.
_GROWING = {"_operator.lshift", "_operator.mul", "_operator.pow"}
_MAX_BITS = 128
_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)

get_item = operator.getitem


def find_function(target: str) -> Callable[..., Any]:
    """Find the function that a program calls.

    Raises:
        ValueError: it is not listed.
        AttributeError: the installed torch has none of this name.
    """
    check_target(target)
    if target in SIZE_FUNCTIONS:
        module, _, name = target.partition(".")
        function = _take_numbers(getattr(_MODULES[module], name))
        return _limit_size(function, is_product=name == "mul") if target in _GROWING else function
    if target.startswith(HIGHER_ORDER):
        return _CONTROL_FLOW[target.removeprefix(HIGHER_ORDER)]
    name = target.removeprefix(ATEN)
    packet_name, _, overload = UNWRITTEN.get(name, name).partition(".")
    packet = getattr(torch.ops.aten, packet_name)
    # By name, since its other attributes lead to any code.
    if overload not in packet.overloads():
        raise ValueError(f"{target:.200} is no overload of an operator of torch {torch.__version__}")
    operator_overload: Callable[..., Any] = getattr(packet, overload)
    return operator_overload


def build_list(*items: Any) -> list[Any]:
    """A list of values, as an operator's argument."""
    return list(items)


def _take_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of sizes take numbers only: of texts and lists, Python's operators mean something else."""

    def call(*values: Any) -> Any:
        if not all(isinstance(each, _NUMBERS) for each in values):
            raise TypeError("a function of sizes is given something else")
        return function(*values)

    return call


def _limit_size(function: Callable[[Any, Any], Any], *, is_product: bool) -> Callable[[Any, Any], Any]:
    def call(a: Any, b: Any) -> Any:
        is_large = not is_product and isinstance(b, int) and b > _MAX_BITS
        result = None if is_large else function(a, b)
        if is_large or (isinstance(result, int) and result.bit_length() > _MAX_BITS):
            raise OverflowError(f"a size of the program has more than {_MAX_BITS} bits")
        return result

    return call


def _run_branch(condition: Any, if_true: Any, if_false: Any, operands: Any = ()) -> Any:
    # torch's own operator, so that torch.export traces both branches when the program is compiled.
    return torch.ops.higher_order.cond(condition, if_true, if_false, operands)


def _run_with_gradients(enabled: bool, graph: Callable[..., Any], *args: Any) -> Any:
    with torch.set_grad_enabled(enabled):
        return graph(*args)


def _run_with_autocast(
    device: str,
    dtype: torch.dtype | None,
    enabled: bool,
    cache_enabled: bool | None,
    graph: Callable[..., Any],
    *args: Any,
) -> Any:
    with torch.autocast(device, dtype, enabled, cache_enabled):
        return graph(*args)


_CONTROL_FLOW: dict[str, Callable[..., Any]] = {
    "cond": _run_branch,
    "wrap_with_set_grad_enabled": _run_with_gradients,
    "wrap_with_autocast": _run_with_autocast,
}
