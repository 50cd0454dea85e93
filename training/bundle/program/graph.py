"""Graph of a program: nodes that call listed operators, each on values that are there when it runs.

Deploy walk: reader.py -> [graph.py] -> operators.py
Imports no torch.
"""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from training.bundle.program import document
from training.bundle.program.operators import ATEN, CONTROL_FLOW, HIGHER_ORDER, SIZE_FUNCTIONS, check_target
from training.bundle.program.stored_tensors import SCALAR_TYPES

_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}
_MEMORY_FORMATS = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}
_MAX_GRAPH_DEPTH = 16
_MODULE_NAME = re.compile(r"[\w.]{1,100}", re.ASCII)


class ValueReference(NamedTuple):
    """A value of the graph."""

    name: str


class TorchConstant(NamedTuple):
    """A datatype, memory format or layout: an attribute of torch."""

    name: str


class TargetDevice(NamedTuple):
    """The device that the program is loaded for."""


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they run.

    Attributes:
        inputs: names of values.
        nodes: the calls.
        outputs: references and constants.
        is_single: whether its one output is returned without a tuple around it.
    """

    inputs: tuple[str, ...]
    nodes: tuple["Node", ...]
    outputs: tuple["Operand", ...]
    is_single: bool


Operand: TypeAlias = (
    "ValueReference | TorchConstant | TargetDevice | Graph | bool | int | float | complex | str"
    " | tuple[Operand, ...] | None"
)
"""An argument; a tuple stands for a list."""
Result: TypeAlias = "str | tuple[Result, ...] | None"
"""Names of a node's results: one value, none, or several."""


class Node(NamedTuple):
    """The call of one function; `module` is the layer that made it, for messages, or ""."""

    target: str
    args: tuple[Operand, ...]
    kwargs: dict[str, Operand]
    result: Result
    module: str


def has_reference(operand: Operand) -> bool:
    """Whether an argument is, or holds, a value that is computed."""
    if isinstance(operand, ValueReference):
        return True
    return isinstance(operand, tuple) and any(has_reference(each) for each in operand)


def read_graph(graph: document.Graph) -> Graph:
    """Check a graph.

    Raises:
        ValueError: it calls a function that is not listed, or uses a value that is not there.
    """
    return _read_graph(graph, 0)


def _read_graph(graph: document.Graph, depth: int) -> Graph:
    if depth > _MAX_GRAPH_DEPTH:
        raise ValueError(f"its graphs are nested more than {_MAX_GRAPH_DEPTH} levels")
    values: set[str] = set()
    inputs = tuple(_define_input(argument, values) for argument in graph.inputs)
    nodes = tuple(_read_node(node, values, depth) for node in graph.nodes)
    outputs = tuple(_read_argument(argument, values) for argument in graph.outputs)
    if graph.is_single_tensor_return and len(outputs) != 1:
        raise ValueError(f"a graph returns {len(outputs)} values as one")
    return Graph(inputs, nodes, outputs, graph.is_single_tensor_return)


def _define_input(argument: document.Argument, values: set[str]) -> str:
    name = _read_result(argument, values)
    if not isinstance(name, str):
        raise ValueError("an input of a graph is not one value")
    return name


def _read_node(node: document.Node, values: set[str], depth: int) -> Node:
    check_target(node.target)
    graphs = CONTROL_FLOW.get(node.target.removeprefix(HIGHER_ORDER), ()) if HIGHER_ORDER in node.target else ()
    args: list[Operand] = []
    kwargs: dict[str, Operand] = {}
    for argument in node.inputs:
        kind, value = argument.arg.get()
        if (kind == "graph") != (argument.kind == 1 and len(args) in graphs):
            raise ValueError(f"{node.target} has a graph where it takes none, or none where it takes one")
        operand = _read_graph(value.graph, depth + 1) if kind == "graph" else _read_argument(argument.arg, values)
        # torch serializes functions of sizes with names, and calls them by position.
        if argument.kind == 1 or node.target in SIZE_FUNCTIONS:
            if kwargs:
                raise ValueError(f"{node.target} has an argument by position after one by keyword")
            args.append(operand)
        elif not argument.name.isidentifier() or argument.name in kwargs or not node.target.startswith(ATEN):
            raise ValueError(f"{node.target} has a keyword {argument.name!r}")
        else:
            kwargs[argument.name] = operand
    is_of_sizes = node.target in SIZE_FUNCTIONS
    if is_of_sizes and not all(isinstance(each, ValueReference | int | float) for each in (*args, *kwargs.values())):
        raise ValueError(f"{node.target} takes sizes, and is given something else")
    if any(position >= len(args) for position in graphs):
        raise ValueError(f"{node.target} has no graph")
    return Node(node.target, tuple(args), kwargs, _read_results(node, values), _find_module(node))


def _find_module(node: document.Node) -> str:
    """The innermost of the modules that torch.export notes for a call: `L__self__a.1,a.1,torch.nn.Dropout;...`."""
    parts = node.metadata.get("nn_module_stack", "").rpartition(";")[2].split(",")
    return parts[1] if len(parts) == 3 and _MODULE_NAME.fullmatch(parts[1]) else ""


def _read_results(node: document.Node, values: set[str]) -> Result:
    is_control_flow = node.target.startswith(HIGHER_ORDER)
    if is_control_flow == (node.is_hop_single_tensor_return is None):
        raise ValueError(f"{node.target} does not say whether it returns one tensor, or is no control flow and does")
    results = tuple(_read_result(output, values) for output in node.outputs)
    if len(results) != 1:
        return results
    # Control flow returns a tuple, though of one tensor; an operator returns the tensor itself.
    is_tuple = is_control_flow and not node.is_hop_single_tensor_return
    return results if is_tuple and not isinstance(results[0], tuple) else results[0]


def _read_result(output: document.Argument, values: set[str]) -> Result:
    kind, value = output.get()
    if kind == "none":
        return None
    if kind in ("tensors", "sym_ints", "sym_floats", "sym_bools"):
        return tuple(_define(_get_name(each), values) for each in value)
    if kind in ("tensor", "sym_int", "sym_float", "sym_bool"):
        return _define(_get_name(value), values)
    raise ValueError(f"a node returns {kind}, which is no value")


def _get_name(value: Any) -> str:
    name = value.name if isinstance(value, document.NameReference) else value.as_name
    if not isinstance(name, str):
        raise ValueError("a node returns a constant")
    return name


def _define(name: str, values: set[str]) -> str:
    if name in values:
        raise ValueError(f"{name} is computed twice")
    values.add(name)
    return name


def _read_argument(argument: document.Argument, values: set[str]) -> Operand:
    kind, value = argument.get()
    if kind == "none":
        return None
    if kind == "scalar_type":
        return TorchConstant(SCALAR_TYPES[value][0])
    if kind == "memory_format":
        return TorchConstant(_MEMORY_FORMATS[value])
    if kind == "layout":
        return TorchConstant("strided")
    if kind == "device":
        return TargetDevice()
    if kind == "complex":
        return complex(_read_float(value.real), _read_float(value.imag))
    if kind in ("bool", "int", "string", "bools", "ints", "strings"):
        return tuple(value) if isinstance(value, list) else value
    if kind == "float":
        return _read_float(value)
    if kind == "floats":
        return tuple(_read_float(each) for each in value)
    if kind == "graph":
        raise ValueError("a graph stands where a value is expected")
    return _read_references(value, values)


def _read_references(value: Any, values: set[str]) -> Operand:
    if isinstance(value, list):
        return tuple(_read_references(each, values) for each in value)
    if isinstance(value, document.OptionalTensor):
        if not isinstance(value.as_tensor, document.NameReference):
            return None
        value = value.as_tensor
    if isinstance(value, document.SymInt) and isinstance(value.as_int, int):
        return value.as_int
    if isinstance(value, document.SymFloat) and isinstance(value.as_float, float | str):
        return _read_float(value.as_float)
    if isinstance(value, document.SymBool) and isinstance(value.as_bool, bool):
        return value.as_bool
    name = _get_name(value)
    if name not in values:
        raise ValueError(f"{name} is used before it is computed")
    return ValueReference(name)


def _read_float(value: float | str) -> float:
    return _FLOATS[value] if isinstance(value, str) else value
