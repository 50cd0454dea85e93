"""Steps: a graph as a flat list of operator calls over numbered values, with constants filled in.

Deploy walk: interpreter.py -> [steps.py] -> torch_functions.py
No code is generated, so nothing of the archive can become code. A call takes no longer than that of torch.fx's code,
which looks each weight up by its path of modules.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch

from training.bundle.program.arguments import check_arguments, find_written, guard_call, guard_writes
from training.bundle.program.graph import (
    Graph,
    Node,
    Operand,
    Result,
    TargetDevice,
    TorchConstant,
    ValueReference,
    has_reference,
)
from training.bundle.program.operators import ATEN
from training.bundle.program.torch_functions import build_list, find_function, get_item


class Step(NamedTuple):
    """One call: `values[output] = function(*get_arguments(values))`; then the dead values are released."""

    function: Callable[..., Any]
    get_arguments: Callable[[list[Any]], Sequence[Any]]
    output: int
    dead: tuple[int, ...]


class Plan:
    """What runs a graph.

    Attributes:
        initial_values: constants, and places for inputs (the first) and results.
        operators: names of the operators, without namespace and overload, those of inner graphs too.
        writes: whether a call may change a tensor that it is given.
        readers: the operators that read each value, by name; "" is anything else that does.
    """

    def __init__(
        self,
        steps: list[Step],
        initial_values: list[Any],
        get_outputs: Callable[[list[Any]], Sequence[Any]],
        is_single: bool,
        operators: frozenset[str],
        writes: bool,
        readers: dict[str, set[str]],
    ) -> None:
        self._steps, self._get_outputs, self._is_single = steps, get_outputs, is_single
        self.initial_values = initial_values
        self.operators, self.writes, self.readers = operators, writes, readers

    def run(self, values: list[Any]) -> Sequence[Any]:
        """Run the steps; values is a copy of `initial_values` with the inputs in it, and is used up."""
        for function, get_arguments, output, dead in self._steps:
            values[output] = function(*get_arguments(values))
            for i in dead:
                # Memory of a value that nothing reads any more serves the next one.
                values[i] = None
        return self._get_outputs(values)

    def __call__(self, *inputs: Any) -> Any:
        """Run it as a branch of control flow."""
        values = self.initial_values.copy()
        values[: len(inputs)] = inputs
        outputs = self.run(values)
        return outputs[0] if self._is_single else tuple(outputs)


def build_plan(graph: Graph, device: torch.device, weights: dict[int, str]) -> Plan:
    """Build the plan of a checked graph.

    Args:
        graph: a checked one.
        device: of the tensors that it makes.
        weights: filled by the caller before each run: names of the weights by the address of their memory.

    Raises:
        AttributeError: the installed torch has no such operator.
    """
    return _PlanBuilder(graph, device, weights).build(graph)


class _PlanBuilder:
    def __init__(self, graph: Graph, device: torch.device, weights: dict[int, str]) -> None:
        self._device, self._weights = device, weights
        self._values: list[Any] = [None] * len(graph.inputs)
        self._index = {name: i for i, name in enumerate(graph.inputs)}
        self._variables = set(self._index.values())
        self._calls: list[tuple[Callable[..., Any], tuple[int, ...], int]] = []
        self._operators: set[str] = set()
        self._writes = False
        self._readers: dict[str, set[str]] = {}

    def build(self, graph: Graph) -> Plan:
        for node in graph.nodes:
            self._add_node(node)
        outputs = tuple(self._place(operand, "") for operand in graph.outputs)
        steps = _release_dead_values(self._calls, outputs)
        return Plan(
            steps,
            self._values,
            _build_getter(outputs),
            graph.is_single,
            frozenset(self._operators),
            self._writes,
            self._readers,
        )

    def _add_node(self, node: Node) -> None:
        name = node.target.removeprefix(ATEN).partition(".")[0] if node.target.startswith(ATEN) else ""
        self._operators.add(name)
        function = find_function(node.target)
        if node.target.startswith(ATEN):
            check_arguments(function, node)
            written = find_written(function, node)
            function = guard_call(function, node)
            if written:
                self._writes = True
                function = guard_writes(function, written, self._weights)
        arguments = tuple(self._place(operand, name) for operand in node.args)
        keywords = {keyword: self._place(operand, name) for keyword, operand in node.kwargs.items()}
        inputs = {keyword: i for keyword, i in keywords.items() if i in self._variables}
        constants = {keyword: self._values[i] for keyword, i in keywords.items() if keyword not in inputs}
        if constants:
            function = partial(function, **constants)
        if inputs:
            function = _call_with_keywords(function, tuple(inputs))
        self._name_result(node.result, self._add_call(function, *arguments, *inputs.values()))

    def _add_call(self, function: Callable[..., Any], *arguments: int) -> int:
        """Add a call; return where its result will be."""
        output = self._allocate(None)
        self._variables.add(output)
        self._calls.append((function, arguments, output))
        return output

    def _name_result(self, result: Result, index: int) -> None:
        if isinstance(result, str):
            self._index[result] = index
        elif result is not None:
            for i, each in enumerate(result):
                self._name_result(each, self._add_call(get_item, index, self._allocate(i)))

    def _place(self, operand: Operand, reader: str) -> int:
        """Return where a call finds an operand."""
        if isinstance(operand, ValueReference):
            self._readers.setdefault(operand.name, set()).add(reader)
            return self._index[operand.name]
        if isinstance(operand, tuple) and not isinstance(operand, TorchConstant | TargetDevice):
            if not has_reference(operand):
                return self._allocate(_build_constant(operand))
            return self._add_call(build_list, *(self._place(each, reader) for each in operand))
        if isinstance(operand, TorchConstant):
            return self._allocate(getattr(torch, operand.name))
        if isinstance(operand, TargetDevice):
            return self._allocate(self._device)
        if isinstance(operand, Graph):
            plan = build_plan(operand, self._device, self._weights)
            self._operators |= plan.operators
            self._writes |= plan.writes
            return self._allocate(plan)
        return self._allocate(operand)

    def _allocate(self, value: Any) -> int:
        self._values.append(value)
        return len(self._values) - 1


def _build_constant(operand: Operand) -> Any:
    return [_build_constant(each) for each in operand] if isinstance(operand, tuple) else operand


def _call_with_keywords(function: Callable[..., Any], keywords: tuple[str, ...]) -> Callable[..., Any]:
    """Make the last positional arguments of a function its keywords."""

    def call(*arguments: Any) -> Any:
        split = len(arguments) - len(keywords)
        return function(*arguments[:split], **dict(zip(keywords, arguments[split:], strict=True)))

    return call


def _build_getter(indices: tuple[int, ...]) -> Callable[[list[Any]], Sequence[Any]]:
    if len(indices) > 1:
        return itemgetter(*indices)
    # With one index itemgetter would return the item, not a sequence.
    return itemgetter(slice(indices[0], indices[0] + 1) if indices else slice(0, 0))


def _release_dead_values(
    calls: list[tuple[Callable[..., Any], tuple[int, ...], int]], outputs: tuple[int, ...]
) -> list[Step]:
    """Make steps of calls; a step releases the results that it is the last to read, and its own if none reads it."""
    unread = {output for _, _, output in calls} - set(outputs)
    steps = []
    for function, arguments, output in reversed(calls):
        if function is get_item and output in unread:
            continue
        dead = unread & {*arguments, output}
        unread -= dead
        steps.append(Step(function, _build_getter(arguments), output, tuple(sorted(dead))))
    return steps[::-1]
