"""Arguments: what an operator may be given, beyond what torch itself checks before it touches memory.

Deploy walk: steps.py -> [arguments.py]

torch's own Python functions and modules check much that the operators below them do not: an LSTM's operator trusts the
sizes of its weights, a datatype may be any integer, None stands for a tensor that is not there. A program calls
operators directly, so the same is checked here: kinds once, when it is loaded; at each call sizes, of the operators
that trust them, and that nothing is written to the memory of a weight. A list of such operators is never complete; what
it misses ends at worst the replica's own process.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.bundle.program.graph import Node, Operand, TargetDevice, TorchConstant, ValueReference, has_reference
from training.bundle.program.operators import ATEN
from training.bundle.torch_internals import is_dispatched
from training.errors import ServiceError

Operator = Callable[..., Any]

_CONSTANTS = {"ScalarType": torch.dtype, "MemoryFormat": torch.memory_format, "Layout": torch.layout}
_NUMBERS: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "bool": (bool, int),
    "float": (int, float),
    "number": (int, float, complex),
    "complex": (int, float, complex),
    # torch.export writes x + 1 as a call of add.Tensor.
    "Tensor": (int, float, complex),
}
_MAX_WINDOW = 2**20
"""Largest stride, padding, dilation or size of a window: products of two stay far from 2**63."""


def check_arguments(operator: Any, node: Node) -> None:
    """Check that each argument is of the kind that the operator's schema asks for.

    Args:
        operator: an overload of torch.ops.aten.
        node: its call.

    Raises:
        ValueError: one is not, or the operator is one of TorchScript only; the message names it.
    """
    if not is_dispatched(operator):
        raise ValueError(f"{node.target} is of TorchScript and takes no tensors")
    schema = operator._schema
    by_position = [argument for argument in schema.arguments if not argument.kwarg_only]
    if len(node.args) > len(by_position):
        raise ValueError(f"{node.target} takes {len(by_position)} arguments by position, {len(node.args)} are given")
    given = list(zip(by_position, node.args, strict=False))
    by_name = {argument.name: argument for argument in schema.arguments}
    for name, operand in node.kwargs.items():
        if name not in by_name:
            raise ValueError(f"{node.target} has no argument {name}")
        given.append((by_name[name], operand))
    for argument, operand in given:
        if argument.name == "reduction" and operand not in (0, 1, 2):
            raise ValueError(f"{node.target} has reduction {operand!r:.20}; 0, 1 and 2 are none, mean and sum")
        if not _fits(operand, str(argument.real_type)):
            raise ValueError(f"{node.target} takes {argument.real_type} for {argument.name}, another kind is given")
    _check_results(node, [str(value.type) for value in schema.returns])


def _fits(operand: Operand, kind: str) -> bool:
    if kind.startswith("Optional["):
        return operand is None or _fits(operand, kind[9:-1])
    if kind.startswith("List["):
        # One number stands for each item of a list of fixed size.
        items = operand if type(operand) is tuple else (operand,)
        return all(_fits(item, kind[5:-1]) for item in items)
    if kind in _CONSTANTS:
        return isinstance(operand, TorchConstant) and isinstance(getattr(torch, operand.name), _CONSTANTS[kind])
    if kind == "Device":
        return isinstance(operand, TargetDevice)
    if kind == "str":
        return isinstance(operand, str)
    if isinstance(operand, ValueReference):
        return kind in _NUMBERS
    return type(operand) is not tuple and isinstance(operand, _NUMBERS.get(kind, ()))


def _check_results(node: Node, kinds: list[str]) -> None:
    """Check that a program names no result that is None: later operators would take it for a tensor."""
    result = node.result
    if len(kinds) == 1 and isinstance(result, tuple):
        is_known = kinds[0].startswith("List[")
    elif len(kinds) == 1:
        is_known = True
    else:
        is_known = result in (None, ()) if not kinds else isinstance(result, tuple) and len(result) == len(kinds)
    if not is_known:
        raise ValueError(f"{node.target} returns {len(kinds)} values, the program names others")


class ProgramChangedError(ServiceError):
    """A program would change one of its own weights: its answers would depend on rows that other callers sent."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"the net changes {self.name} when it is called, so equal rows would get different answers"


def find_written(operator: Any, node: Node) -> tuple[int | str, ...]:
    """Which arguments a call may change, by position or keyword; normalization may change its statistics."""
    arguments = operator._schema.arguments
    names = [argument.name for argument in arguments]
    written = {argument.name for argument in arguments if argument.is_write}
    given = _bind(names, node.args, node.kwargs)
    if any(given.get(name, False) is not False for name in ("training", "use_input_stats")):
        written |= {"running_mean", "running_var"}
    return tuple(name if name in node.kwargs else names.index(name) for name in written if name in given)


def guard_writes(function: Operator, written: tuple[int | str, ...], weights: dict[int, str]) -> Operator:
    """Return the function, refusing to write to the memory of a weight, by whatever view.

    Args:
        function: the operator.
        written: of its arguments.
        weights: names of the weights by the address of their memory, at the time of a call.

    Returns:
        A function that raises ProgramChangedError before anything is changed.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        for where in () if torch.compiler.is_compiling() else written:
            target = args[where] if isinstance(where, int) else kwargs[where]
            if isinstance(target, Tensor) and not target.is_meta:
                name = weights.get(target.untyped_storage().data_ptr())
                if name is not None:
                    raise ProgramChangedError(name)
        return function(*args, **kwargs)

    return call


def guard_call(operator: Any, node: Node) -> Operator:
    """Return the operator, or, if it trusts its arguments, a function that checks them and calls it.

    Raises:
        ValueError: constants among them are not allowed.
    """
    name, _, overload = node.target.removeprefix(ATEN).partition(".")
    if name in ("median", "nanmedian") and overload == "dim":
        # Of an expanded tensor it reads beyond the end.
        return lambda self, *args, **kwargs: operator(self.contiguous(), *args, **kwargs)
    check = _CHECKS.get(name) or _CHECKS.get(name.removesuffix("_"))
    if check is None or (
        check is _check_integer_division and name.startswith("div") and not overload.endswith("_mode")
    ):
        return operator  # type: ignore[no-any-return]
    arguments = operator._schema.arguments
    names = [argument.name for argument in arguments]
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    if check in (_check_windows, _check_grid):
        given = defaults | _bind(names, node.args, node.kwargs)
        kinds = {argument.name: str(argument.type) for argument in arguments}
        constants = {key: value for key, value in given.items() if "Tensor" not in kinds[key]}
        if not any(has_reference(value) for value in constants.values()):
            check(**constants)
            return operator  # type: ignore[no-any-return]

    def call(*args: Any, **kwargs: Any) -> Any:
        check(**(defaults | _bind(names, args, kwargs)))
        return operator(*args, **kwargs)

    return call


def _bind(names: list[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the schema."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise ValueError(f"an operator of the program is given what it cannot take: {rule}")


def _holds(condition: Tensor) -> bool:
    """Whether a condition on values holds; while the program is traced, and on the meta device, there are none."""
    return torch.compiler.is_compiling() or condition.is_meta or bool(condition)


def _check_recurrent(gates: int) -> Callable[..., None]:
    def check(
        input: Tensor,  # noqa: A002  (as the schema calls it)
        hx: Tensor | Sequence[Tensor],
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        bidirectional: bool,
        batch_first: bool,
        **_: Any,
    ) -> None:
        states = [hx] if isinstance(hx, Tensor) else list(hx)
        is_lstm = gates == 4
        _require(len(states) == (2 if is_lstm else 1), "its states")
        tensors = [input, *states, *params]
        _require(all(isinstance(each, Tensor) for each in tensors), "its states and weights are tensors")
        # Autocast converts them before the operator computes.
        is_converted = not input.is_meta and torch.is_autocast_enabled(input.device.type)
        kinds = {(None if is_converted else each.dtype, each.device) for each in tensors}
        _require(len(kinds) == 1, "datatypes and devices are equal")
        _require(input.dim() == 3, "its input has three dimensions")
        directions = 2 if bidirectional else 1
        _require(states[-1].dim() == 3 and states[-1].shape[0] == num_layers * directions, "sizes of its states")
        rows, hidden = input.shape[0 if batch_first else 1], states[-1].shape[2]
        output = states[0].shape[-1]
        is_projected = is_lstm and output != hidden
        for state, width in zip(states, (output, hidden) if is_lstm else (hidden,), strict=True):
            _require(tuple(state.shape) == (num_layers * directions, rows, width), "sizes of its states")
        expected: list[tuple[int, ...]] = []
        for layer in range(num_layers):
            width = input.shape[2] if layer == 0 else output * directions
            one: list[tuple[int, ...]] = [(gates * hidden, width), (gates * hidden, output)]
            one += [(gates * hidden,), (gates * hidden,)] if has_biases else []
            one += [(output, hidden)] if is_projected else []
            expected += one * directions
        _require([tuple(each.shape) for each in params] == expected, "sizes of its weights")

    return check


def _check_cell(gates: int) -> Callable[..., None]:
    def check(
        input: Tensor,  # noqa: A002  (as the schema calls it)
        hx: Tensor | Sequence[Tensor],
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        **_: Any,
    ) -> None:
        states = [hx] if isinstance(hx, Tensor) else list(hx)
        _require(len(states) == (2 if gates == 4 else 1) and input.dim() == 2, "its input and states")
        hidden = states[0].shape[-1]
        _require(all(tuple(state.shape) == (input.shape[0], hidden) for state in states), "sizes of its states")
        _require(tuple(w_ih.shape) == (gates * hidden, input.shape[1]), "sizes of its weights")
        _require(tuple(w_hh.shape) == (gates * hidden, hidden), "sizes of its weights")
        for bias in (b_ih, b_hh):
            _require(bias is None or tuple(bias.shape) == (gates * hidden,), "sizes of its weights")

    return check


def _check_embedding_bag(
    indices: Tensor, offsets: Tensor, mode: int, per_sample_weights: Tensor | None, include_last_offset: bool, **_: Any
) -> None:
    _require(indices.dim() == 1 and offsets.dim() == 1, "indices and offsets have one dimension")
    _require(offsets.numel() >= int(include_last_offset) and mode in (0, 1, 2), "offsets and mode")
    _require(per_sample_weights is None or per_sample_weights.shape == indices.shape, "a weight for each index")
    if offsets.numel():
        is_rising = (offsets[1:] >= offsets[:-1]).all() & (offsets[0] == 0) & (offsets[-1] <= indices.numel())
        _require(_holds(is_rising), "offsets rise from 0 to the number of indices")


def _check_grid(interpolation_mode: int, padding_mode: int, **_: Any) -> None:
    _require(interpolation_mode in (0, 1, 2) and padding_mode in (0, 1, 2), "modes are 0, 1 or 2")


def _check_repeats(repeats: Tensor | int, output_size: int | None, **_: Any) -> None:
    if isinstance(repeats, Tensor):
        is_bounded = repeats.dim() <= 1 and _holds(((repeats >= 0) & (repeats < 2**31)).all())
        _require(is_bounded, "repeats are 0 to 2,147,483,647")
        _require(output_size is None or _holds(repeats.sum() == output_size), "the size that its repeats give")


def _check_upsampling(**arguments: Any) -> None:
    image = arguments.get("self", arguments.get("input"))
    assert isinstance(image, Tensor)
    size, factors = arguments["output_size"], arguments.get("scale_factors")
    scales = factors or [arguments[key] for key in ("scales_d", "scales_h", "scales_w", "scales") if key in arguments]
    inner = image.shape[2:]
    _require(all(scale is None or (math.isfinite(scale) and scale > 0) for scale in scales), "scales above 0")
    if size is not None and scales:
        _require(len(size) == len(scales) == len(inner), "a size for each dimension")
        for before, after, scale in zip(inner, size, scales, strict=True):
            is_near = scale is None or abs(before * scale - after) <= max(1, scale)
            _require(is_near, "scales that fit the sizes")
    sizes = size or [before * scale for before, scale in zip(inner, scales, strict=False)]
    _require(all(1 <= each < 2**31 for each in sizes), "sizes of at least 1")


def _check_windows(**arguments: Any) -> None:
    for key in ("kernel_size", "output_size", "stride", "padding", "dilation", "output_padding", "size", "step", "pad"):
        value = arguments.get(key)
        for each in value if isinstance(value, list | tuple) else (value,):
            is_number = isinstance(each, int | torch.SymInt)
            _require(not is_number or abs(each) <= _MAX_WINDOW, f"{key} is at most {_MAX_WINDOW}")


def _check_integer_division(self: Tensor | float, other: Tensor | float, **_: Any) -> None:
    # The smallest integer has no opposite: the processor faults. Torch casts both before it divides.
    dtype = torch.result_type(self, other)
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        return
    dividend, divisor = (torch.as_tensor(each).to(dtype) for each in (self, other))
    smallest = torch.iinfo(dtype).min
    _require(_holds(~((dividend == smallest) & (divisor == -1)).any()), f"{smallest} divided by -1")


def _check_power(n: int, **_: Any) -> None:
    _require(abs(n) < 2**31, "an exponent below 2,147,483,648")


def _check_attention(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool = False, **_: Any) -> None:
    _require(min(query.dim(), key.dim(), value.dim()) >= 2, "at least two dimensions")
    if enable_gqa:
        has_heads = min(query.dim(), key.dim(), value.dim()) >= 3 and min(key.shape[-3], value.shape[-3]) > 0
        _require(has_heads, "at least one head")


_RECURRENT = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_WINDOWED = """
    avg_pool1d avg_pool2d avg_pool3d col2im conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    convolution im2col max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices max_unpool2d max_unpool3d unfold adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d constant_pad_nd pad
"""
_UPSAMPLING = """
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d
"""
_CHECKS: dict[str, Callable[..., None]] = {
    **{name: _check_recurrent(gates) for name, gates in _RECURRENT.items()},
    **{f"{name}_cell": _check_cell(gates) for name, gates in _RECURRENT.items()},
    **dict.fromkeys(_WINDOWED.split(), _check_windows),
    **dict.fromkeys(_UPSAMPLING.split(), _check_upsampling),
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), _check_grid),
    **dict.fromkeys(("div", "divide", "floor_divide", "fmod", "remainder"), _check_integer_division),
    **dict.fromkeys(("matrix_power", "linalg_matrix_power"), _check_power),
    "scaled_dot_product_attention": _check_attention,
    "embedding_bag": _check_embedding_bag,
    "repeat_interleave": _check_repeats,
}
