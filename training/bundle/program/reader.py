"""Program reader: model.pt2 as a closed, checked structure, or a refusal; no string of it is evaluated.

Deploy walk: training.bundle.verify -> [reader.py] -> archive.py -> document.py -> stored_tensors.py -> graph.py
    -> determinism.py
Imports no torch, and allocates nothing for weights: a bundle is verified without it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from training.bundle.program import document
from training.bundle.program.archive import CONSTANTS_CONFIG, MODEL, REMEDY, WEIGHTS_CONFIG, Archive, read_archive
from training.bundle.program.determinism import check_determinism
from training.bundle.program.graph import Graph, read_graph
from training.bundle.program.stored_tensors import StoredTensor, read_stored_tensors
from training.errors import BundleError

_SYMBOL = re.compile(r"Symbol\('([A-Za-z_]\w*)'(?:, (?:positive|integer|nonnegative)=True)*\)|([A-Za-z_]\w*)", re.ASCII)
_MAX_TREE_DEPTH = 32


class Dimension(NamedTuple):
    """One dimension of the input: its bounds; those of the same symbol have equal sizes."""

    symbol: str | None
    minimum: int
    maximum: int | None


@dataclass(frozen=True)
class OutputTree:
    """How the outputs are arranged: "leaf", "tuple", "list" or "dict"."""

    kind: str
    keys: tuple[str, ...] = ()
    children: tuple["OutputTree", ...] = ()

    def count_leaves(self) -> int:
        """The number of outputs."""
        return 1 if self.kind == "leaf" else sum(child.count_leaves() for child in self.children)


@dataclass(frozen=True)
class Program:
    """A program that runs nothing but listed operators.

    Attributes:
        path: of the archive.
        tensors: weights and constants, by their names in the net.
        bindings: which tensor an input of the graph is, by the input's name.
        input_name: the other input: the caller's tensor.
        input_shape: of that.
        graph: the main graph.
        outputs: how the graph's outputs are arranged.
    """

    path: Path
    tensors: dict[str, StoredTensor]
    bindings: dict[str, str]
    input_name: str
    input_shape: tuple[Dimension, ...]
    graph: Graph
    outputs: OutputTree


def read_program(path: Path) -> Program:
    """Read a program, without its weights' bytes.

    Raises:
        BundleError: it is no archive of torch.export, or holds anything that is not known to be harmless.
    """
    archive = read_archive(path)
    try:
        return _read_program(archive)
    except ValueError as error:
        raise BundleError(f"{path.name} is not a program that Shoal reads: {error}; {REMEDY}") from None


def _read_program(archive: Archive) -> Program:
    content = _decode(archive, MODEL, document.ProgramDocument)
    module = content.graph_module
    tensors = read_stored_tensors(
        archive.members,
        _decode(archive, WEIGHTS_CONFIG, document.PayloadConfig).config,
        _decode(archive, CONSTANTS_CONFIG, document.PayloadConfig).config,
    )
    graph = read_graph(module.graph)
    bindings, input_name = _bind_inputs(module.signature, graph, tensors)
    _refuse_mutations(module.signature)
    check_determinism(graph, bindings)
    if len(module.signature.output_specs) != len(graph.outputs):
        raise ValueError(f"its graph has {len(graph.outputs)} outputs, its signature another number")
    signature = module.module_call_graph[0].signature
    if signature is None:
        raise ValueError("it does not say how it is called")
    if read_tree(signature.in_spec) != _ONE_INPUT:
        raise ValueError("it takes something else than one tensor, without keywords")
    outputs = read_tree(signature.out_spec)
    if outputs.count_leaves() != len(graph.outputs):
        raise ValueError(f"its graph has {len(graph.outputs)} outputs, its tree {outputs.count_leaves()}")
    shape = _read_input_shape(content, input_name)
    return Program(archive.path, tensors, bindings, input_name, shape, graph, outputs)


def _decode(archive: Archive, name: str, kind: type[document.T]) -> document.T:
    try:
        return document.decode(archive.read(name), kind)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _bind_inputs(
    signature: document.Signature, graph: Graph, tensors: dict[str, StoredTensor]
) -> tuple[dict[str, str], str]:
    """Return the name in the net of each input that is a weight, and the name of the input that is none."""
    if len(signature.input_specs) != len(graph.inputs):
        raise ValueError(f"its graph has {len(graph.inputs)} inputs, its signature another number")
    bindings, callers = {}, []
    for name, spec in zip(graph.inputs, signature.input_specs, strict=True):
        if isinstance(spec.user_input, document.UserInput):
            kind, value = spec.user_input.arg.get()
            if kind != "tensor" or value.name != name:
                raise ValueError(f"its input {name} is not a tensor of that name")
            callers.append(name)
            continue
        argument, state_name = _get_binding(spec)
        if argument != name:
            raise ValueError(f"its graph calls an input {name}, its signature {argument}")
        if state_name not in tensors:
            raise ValueError(f"its input {name} is {state_name}, of which it holds no bytes")
        bindings[name] = state_name
    if len(callers) != 1:
        raise ValueError(f"it takes {len(callers)} tensors; a bundle's net takes one")
    return bindings, callers[0]


def _get_binding(spec: document.InputSpec) -> tuple[str, str]:
    if isinstance(spec.parameter, document.ParameterInput):
        return spec.parameter.arg.name, spec.parameter.parameter_name
    if isinstance(spec.buffer, document.BufferInput):
        return spec.buffer.arg.name, spec.buffer.buffer_name
    assert isinstance(spec.tensor_constant, document.ConstantInput)
    return spec.tensor_constant.arg.name, spec.tensor_constant.tensor_constant_name


def _refuse_mutations(signature: document.Signature) -> None:
    for spec in signature.output_specs:
        if isinstance(spec.buffer_mutation, document.BufferMutation):
            raise ValueError(f"it changes its buffer {spec.buffer_mutation.buffer_name} when it is called")


def _read_input_shape(content: document.ProgramDocument, name: str) -> tuple[Dimension, ...]:
    values = content.graph_module.graph.tensor_values
    if name not in values:
        raise ValueError(f"it does not give the shape of its input {name}")
    dimensions = []
    for size in document.decode(values[name], document.InputMeta).sizes:
        if isinstance(size.as_int, int):
            dimensions.append(Dimension(None, size.as_int, size.as_int))
            continue
        assert isinstance(size.as_expr, document.Expression)
        match = _SYMBOL.fullmatch(size.as_expr.expr_str)
        if match is None:
            raise ValueError(f"a size of its input is {size.as_expr.expr_str[:100]!r}, neither a number nor a symbol")
        symbol = match[1] or match[2]
        bounds = content.range_constraints.get(symbol)
        if bounds is None:
            raise ValueError(f"a size of its input is {symbol[:100]}, whose range it does not give")
        dimensions.append(Dimension(symbol, bounds.min_val or 0, bounds.max_val))
    return tuple(dimensions)


def read_tree(text: str) -> OutputTree:
    """Read how tensors are arranged, as torch.utils._pytree writes it.

    Raises:
        ValueError: they are arranged in something else than tuples, lists and dicts with strings as keys.
    """
    version, root = document.decode(text, tuple[int, document.TreeDocument])
    if version != 1:
        raise ValueError(f"its trees have version {version}; 1 is read")
    return _read_tree(root, 0)


def _read_tree(node: document.TreeDocument, depth: int) -> OutputTree:
    if depth > _MAX_TREE_DEPTH:
        raise ValueError(f"its outputs are nested more than {_MAX_TREE_DEPTH} levels")
    children = tuple(_read_tree(child, depth + 1) for child in node.children_spec)
    if node.type is None:
        if children or node.context is not None:
            _refuse_tree()
        return OutputTree("leaf")
    kind = node.type.removeprefix("builtins.")
    if kind != "dict":
        if node.context != "null":
            _refuse_tree()
        return OutputTree(kind, (), children)
    keys = document.decode(node.context or "", list[str])
    if len(keys) != len(children) or len(set(keys)) != len(keys):
        _refuse_tree()
    return OutputTree("dict", tuple(keys), children)


def _refuse_tree() -> NoReturn:
    raise ValueError("its outputs are arranged in something else than tuples, lists and dicts")


_ONE_INPUT = OutputTree("tuple", (), (OutputTree("tuple", (), (OutputTree("leaf"),)), OutputTree("dict")))
