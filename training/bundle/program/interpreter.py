"""Program module: a checked program with its weights, ready to run; no code is generated.

Deploy walk: training.bundle.load -> [interpreter.py] -> weights.py, steps.py
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.bundle.program.reader import Dimension, OutputTree, Program
from training.bundle.program.steps import Plan, build_plan
from training.bundle.program.weights import load_tensors
from training.errors import BundleError, UserError

_Location = tuple[int, nn.Module, str]
"""A value of the plan, the module that has its tensor, and the name there."""


class ProgramModule(nn.Module):
    """A program that runs; its parameters and buffers have the names of the exported net."""

    def __init__(self, program: Program, device: str = "cpu") -> None:
        """Load a program's weights.

        Args:
            program: read by read_program.
            device: of the weights, and of the tensors that the program makes.

        Raises:
            BundleError: an operator or a weight of the program does not fit the installed torch.
        """
        super().__init__()
        # Set before weights are registered: torch then refuses a weight of the same name.
        self._input_shape, self._checks_input = program.input_shape, True
        self._arrange = _build_arranger(program)
        self._weights: list[_Location] = []
        self._input_index = -1
        # Names of the weights by the address of their memory, for what would write there.
        self._addresses: dict[int, str] = {}
        self._readers: dict[str, set[str]] = {}
        try:
            self._plan: Plan = build_plan(program.graph, torch.device(device), self._addresses)
            modules = self._register_tensors(load_tensors(program.path, program.tensors, device), program)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BundleError(
                f"{program.path.name} does not fit torch {torch.__version__}: {error}; "
                "save it with training.save_bundle under this torch"
            ) from error
        index = {name: i for i, name in enumerate(program.graph.inputs)}
        self._input_index = index[program.input_name]
        # Where tensors are, not the tensors: torch.export and Module.to put others in their place.
        self._weights += [(index[name], *_locate(modules, state)) for name, state in program.bindings.items()]
        self._states = tuple(program.bindings.values())
        for name, state in program.bindings.items():
            self._readers.setdefault(state, set()).update(self._plan.readers.get(name, ()))
        self.eval()

    def _register_tensors(self, tensors: dict[str, Tensor], program: Program) -> dict[str, nn.Module]:
        """Register the tensors by their names in modules; return the modules by name."""
        modules: dict[str, nn.Module] = {"": self}
        for state_name, tensor in tensors.items():
            parts = state_name.split(".")
            for i in range(1, len(parts)):
                path = ".".join(parts[:i])
                if path not in modules:
                    modules[path] = nn.Module()
                    modules[".".join(parts[: i - 1])].add_module(parts[i - 1], modules[path])
            module = modules[".".join(parts[:-1])]
            if isinstance(tensor, nn.Parameter):
                module.register_parameter(parts[-1], tensor)
            else:
                module.register_buffer(parts[-1], tensor, persistent=program.tensors[state_name].is_persistent)
        return modules

    def forward(self, x: Tensor) -> Any:
        """Run the program; the outputs are arranged as the exported net returned them."""
        if self._checks_input:
            _check_input(x, self._input_shape)
        values = self._plan.initial_values.copy()
        values[self._input_index] = x
        for i, module, name in self._weights:
            values[i] = getattr(module, name)
        if self._plan.writes and not torch.compiler.is_compiling():
            self._addresses.clear()
            for (i, _, _), name in zip(self._weights, self._states, strict=True):
                self._addresses[values[i].untyped_storage().data_ptr()] = name
            self._addresses.pop(0, None)  # of tensors without elements
        return self._arrange(self._plan.run(values))

    def disable_input_checks(self) -> None:
        """Let any input in: the codec checks rows against the same shapes."""
        self._checks_input = False

    @property
    def operators(self) -> frozenset[str]:
        """Names of all operators that it calls, without namespace and overload: `linear`."""
        return self._plan.operators

    @property
    def readers(self) -> dict[str, set[str]]:
        """The operators that read each weight, by its name; "" is anything else that does, as a branch."""
        return self._readers


def _locate(modules: dict[str, nn.Module], state_name: str) -> tuple[nn.Module, str]:
    folder, _, name = state_name.rpartition(".")
    return modules[folder], name


def _check_input(x: Tensor, shape: tuple[Dimension, ...]) -> None:
    sizes: dict[str | None, int] = {}
    fits = x.dim() == len(shape)
    for size, (symbol, minimum, maximum) in zip(x.shape, shape, strict=False):
        is_equal = symbol is None or sizes.setdefault(symbol, size) == size
        fits = fits and is_equal and minimum <= size and (maximum is None or size <= maximum)
    if not fits:
        raise UserError(
            f"the input has shape {tuple(x.shape)}; the net takes ({', '.join(map(_describe_dimension, shape))})"
        )


def _describe_dimension(dimension: Dimension) -> str:
    if dimension.symbol is None:
        return str(dimension.minimum)
    maximum = "any" if dimension.maximum is None else dimension.maximum
    return f"{dimension.symbol}: {dimension.minimum} to {maximum}"


def _build_arranger(program: Program) -> Callable[[Sequence[Any]], Any]:
    """Build the function that arranges the outputs, as dicts and tuples, out of those of the graph."""
    positions = iter(range(len(program.graph.outputs)))

    def build(tree: OutputTree) -> Callable[[Sequence[Any]], Any]:
        if tree.kind == "leaf":
            position = next(positions)
            return lambda outputs: outputs[position]
        children = [build(child) for child in tree.children]
        if tree.kind == "dict":
            return lambda outputs: {key: child(outputs) for key, child in zip(tree.keys, children, strict=True)}
        if tree.kind == "list":
            return lambda outputs: [child(outputs) for child in children]
        return lambda outputs: tuple(child(outputs) for child in children)

    return build(program.outputs)
