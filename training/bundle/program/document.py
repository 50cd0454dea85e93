"""Document: the types of a program's JSON: what torch.export.save writes, and no other key, type or name.

Deploy walk: reader.py -> [document.py]
After `torch/_export/serde/schema.py` of torch 2.13, schema version 8. Imports no torch. Knows the form of each value,
not whether the values fit together. Sizes of inner tensors, guards and stack traces stay unread: eager execution needs
none of them.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Size = Annotated[int, Meta(ge=0, le=2**62)]
Float = float | Literal["Infinity", "-Infinity", "NaN"]
Text = Annotated[str, Meta(max_length=4096)]
ValueName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", max_length=512)]
"""Name of a value in a graph."""
StateName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\Z", max_length=512)]
"""Name of a weight in a net: `layers.0.weight`."""
Target = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*\Z", max_length=200)]
ScalarType = Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 28, 34, 35]


class _Closed(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Union(_Closed):
    """One of its fields is given."""

    def __post_init__(self) -> None:
        if sum(getattr(self, name) is not UNSET for name in self.__struct_fields__) != 1:
            raise ValueError("exactly one kind of value is expected")


class Device(_Closed):
    """A device; the program runs on the one that it is loaded for."""

    type: Literal["cpu", "cuda"]
    index: Annotated[int, Meta(ge=0, le=99)] | None = None


class Expression(_Closed):
    """A symbolic size, as sympy prints it; of the input it must be one symbol."""

    expr_str: str
    hint: msgspec.Raw = msgspec.Raw(b"null")


class SizeValue(_Union):
    """A size of the input: a number or a symbol."""

    as_int: Size | UnsetType = UNSET
    as_expr: Expression | UnsetType = UNSET


class FixedSize(_Closed):
    """A size of a stored tensor."""

    as_int: Size


class InputMeta(_Closed):
    """The user's input: datatype and shape."""

    dtype: ScalarType
    sizes: list[SizeValue]
    requires_grad: bool
    device: Device
    strides: msgspec.Raw
    storage_offset: msgspec.Raw
    layout: Literal[7]


class TensorMeta(_Closed):
    """A stored tensor: datatype, shape, strides."""

    dtype: ScalarType
    sizes: Annotated[list[FixedSize], Meta(max_length=64)]
    requires_grad: bool
    device: Device
    strides: Annotated[list[FixedSize], Meta(max_length=64)]
    storage_offset: FixedSize
    layout: Literal[7]


class Payload(_Closed):
    """One stored tensor and the member that holds its bytes."""

    path_name: Annotated[str, Meta(pattern=r"^(weight|tensor)_[0-9]{1,9}\Z")]
    is_param: bool
    use_pickle: bool
    tensor_meta: TensorMeta | None


class PayloadConfig(_Closed):
    """model_weights_config.json or model_constants_config.json."""

    config: dict[StateName, Payload]


class NameReference(_Closed):
    """A tensor in a graph."""

    name: ValueName


class SymInt(_Union):
    """An integer, given or computed by the program."""

    as_name: ValueName | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET


class SymFloat(_Union):
    """A float, given or computed by the program."""

    as_name: ValueName | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET


class SymBool(_Union):
    """A truth value, given or computed by the program."""

    as_name: ValueName | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class OptionalTensor(_Union):
    """A tensor or none."""

    as_tensor: NameReference | UnsetType = UNSET
    as_none: Literal[True] | UnsetType = UNSET


class Complex(_Closed):
    """A complex number."""

    real: Float
    imag: Float


class GraphArgument(_Closed):
    """A graph that a control flow operator runs."""

    name: ValueName
    graph: "Graph"


class Argument(_Union):
    """An argument or output of a node. Of torch's kinds, operators, custom objects and dicts are refused."""

    as_none: Literal[True] | UnsetType = UNSET
    as_tensor: NameReference | UnsetType = UNSET
    as_tensors: list[NameReference] | UnsetType = UNSET
    as_optional_tensor: OptionalTensor | UnsetType = UNSET
    as_optional_tensors: list[OptionalTensor] | UnsetType = UNSET
    as_nested_tensors: list[list[NameReference]] | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET
    as_ints: list[Int] | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET
    as_floats: list[Float] | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET
    as_bools: list[bool] | UnsetType = UNSET
    as_string: Text | UnsetType = UNSET
    as_strings: list[Text] | UnsetType = UNSET
    as_complex: Complex | UnsetType = UNSET
    as_sym_int: SymInt | UnsetType = UNSET
    as_sym_ints: list[SymInt] | UnsetType = UNSET
    as_sym_float: SymFloat | UnsetType = UNSET
    as_sym_floats: list[SymFloat] | UnsetType = UNSET
    as_sym_bool: SymBool | UnsetType = UNSET
    as_sym_bools: list[SymBool] | UnsetType = UNSET
    as_scalar_type: ScalarType | UnsetType = UNSET
    as_memory_format: Literal[1, 2, 3, 4] | UnsetType = UNSET
    as_layout: Literal[7] | UnsetType = UNSET
    as_device: Device | UnsetType = UNSET
    as_graph: GraphArgument | UnsetType = UNSET

    def get(self) -> tuple[str, Any]:
        """The kind that is given, without `as_`, and its value."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not UNSET:
                return name[3:], value
        raise AssertionError("__post_init__ checks that one is given")


class NamedArgument(_Closed):
    """An argument of a node; kind 1 is positional, 2 by keyword."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]*\Z", max_length=100)]
    arg: Argument
    kind: Literal[1, 2]


class Node(_Closed):
    """The call of one function."""

    target: Target
    inputs: list[NamedArgument]
    outputs: list[Argument]
    metadata: dict[str, str]
    is_hop_single_tensor_return: bool | None = None
    name: str | None = None


class Graph(_Closed):
    """Functions in the order in which they run."""

    inputs: list[Argument]
    outputs: list[Argument]
    nodes: list[Node]
    tensor_values: dict[str, msgspec.Raw]
    sym_int_values: dict[str, msgspec.Raw]
    sym_bool_values: dict[str, msgspec.Raw]
    is_single_tensor_return: bool = False
    custom_obj_values: Annotated[dict[str, msgspec.Raw], Meta(max_length=0)] = {}
    sym_float_values: dict[str, msgspec.Raw] = {}


class UserInput(_Closed):
    """What the caller gives."""

    arg: Argument


class ParameterInput(_Closed):
    """A parameter of the net."""

    arg: NameReference
    parameter_name: StateName


class BufferInput(_Closed):
    """A buffer of the net."""

    arg: NameReference
    buffer_name: StateName
    persistent: bool


class ConstantInput(_Closed):
    """A tensor that the net made while it was exported."""

    arg: NameReference
    tensor_constant_name: StateName


class InputSpec(_Union):
    """What an input of the main graph is."""

    user_input: UserInput | UnsetType = UNSET
    parameter: ParameterInput | UnsetType = UNSET
    buffer: BufferInput | UnsetType = UNSET
    tensor_constant: ConstantInput | UnsetType = UNSET


class UserOutput(_Closed):
    """What the caller gets."""

    arg: Argument


class BufferMutation(_Closed):
    """A new value of a buffer."""

    arg: NameReference
    buffer_name: StateName


class OutputSpec(_Union):
    """What an output of the main graph is. Mutations of parameters and inputs, and gradients, are refused."""

    user_output: UserOutput | UnsetType = UNSET
    buffer_mutation: BufferMutation | UnsetType = UNSET


class Signature(_Closed):
    """Inputs and outputs of the main graph, in its order."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class CallSignature(_Closed):
    """How the net is called: trees of its arguments and outputs, as JSON."""

    inputs: msgspec.Raw
    outputs: msgspec.Raw
    in_spec: str
    out_spec: str
    forward_arg_names: list[str] | None = None


class ModuleCall(_Closed):
    """How a module of the net is called; the first is the net."""

    fqn: str
    signature: CallSignature | None = None


class GraphModule(_Closed):
    """The main graph and its signature."""

    graph: Graph
    signature: Signature
    module_call_graph: Annotated[list[ModuleCall], Meta(min_length=1)]
    metadata: dict[str, str] = {}
    treespec_namedtuple_fields: dict[str, msgspec.Raw] = {}


class Range(_Closed):
    """Bounds of a symbolic size; None is no bound."""

    min_val: Int | None
    max_val: Int | None


class SchemaVersion(_Closed):
    """Version of torch's schema; torch raises `major` when it breaks readers."""

    major: Literal[8]
    minor: int


class ProgramDocument(_Closed):
    """models/model.json."""

    graph_module: GraphModule
    opset_version: dict[str, int]
    range_constraints: dict[str, Range]
    schema_version: SchemaVersion
    verifiers: list[str] = []
    torch_version: str = ""
    guards_code: list[str] = []


class TreeDocument(_Closed):
    """One node of a tree of outputs, as `torch.utils._pytree.treespec_dumps` writes it; a leaf has type None."""

    type: Literal["builtins.tuple", "builtins.list", "builtins.dict"] | None
    context: str | None
    children_spec: list["TreeDocument"]


T = TypeVar("T")


def decode(content: bytes | str | msgspec.Raw, kind: type[T]) -> T:
    """Decode JSON as one of the types above.

    Raises:
        ValueError: it is another JSON, or none; the message says where.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # A key of the archive is part of the message.
        raise ValueError(" ".join(str(error).split())[:300]) from None
