"""The form that a net is served in: in bf16, compiled, or both; checked against the net as it was trained, or refused.

Deploy walk: replica.py -> training.bundle.bundle (load) -> [precision.py] -> batching.py (warm up)
Knows nothing of requests: it takes a net and one real row, and gives a net that answers as the first did.
"""
# Shapes: B rows of a batch, T steps of a row.

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from deployments.models import compiled
from deployments.protocols.arrays import Rows
from deployments.specs.model import Endpoint
from training.bundle.manifest import Manifest
from training.errors import UserError
from training.schema import SeriesInput, TextInput, max_sequence_length

Outputs = tuple[Tensor, ...]

# What autocast gives bf16 to, on CPUs and GPUs alike.
_BF16_OPERATORS = {"linear", "conv1d", "conv2d", "conv3d", "matmul", "mm", "bmm", "addmm", "baddbmm"}
# On GPUs cuDNN wants a recurrence's weights as one block, which autocast makes itself.
_RECURRENT_OPERATORS = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


class Bf16Net(nn.Module):
    """A net whose matrices are multiplied in bf16 (torch.autocast), with outputs of the types they had.

    All else, as sums over many numbers, keeps its fp32. Weights that nothing but these products reads are held in bf16:
    autocast would turn them at each call.
    """

    def __init__(self, net: fx.GraphModule, device: str, types: tuple[torch.dtype, ...]) -> None:
        super().__init__()
        self._net, self._device, self._types = net, device, types
        for weight in _find_matmul_weights(net, _BF16_OPERATORS | (_RECURRENT_OPERATORS if device == "cpu" else set())):
            weight.data = weight.data.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        """Any input of the net to its outputs."""
        with torch.autocast(self._device, torch.bfloat16, cache_enabled=False):
            y = self._net(x)
        if isinstance(y, tuple):
            return tuple(each.to(kind) for each, kind in zip(y, self._types, strict=True))
        turned: Tensor = y.to(self._types[0])
        return turned


def build_variant(
    net: nn.Module, endpoint: Endpoint, manifest: Manifest, rows: Rows, device: str, cache: Path
) -> nn.Module:
    """Bring a bundle's net into the form that its endpoint asks for.

    Args:
        net: of the bundle, on the device.
        endpoint: says which form, and the most rows of a batch.
        manifest: of the bundle; says how far the form may be from the net.
        rows: the bundle's own example, of which the first row counts.
        device: "cpu" or "cuda".
        cache: what is compiled is kept in a folder of it.

    Returns:
        A net for any number of rows and steps that the bundle's takes; what went into it is no more the bundle's.

    Raises:
        Mistake: this net cannot be had in this form, or is too far from itself; the message says what to do.
    """
    if endpoint.variant == "fp32":
        return net
    assert isinstance(net, fx.GraphModule)
    # They check the input's shape anew at each call, which the codec has done.
    net._forward_pre_hooks.clear()
    x = torch.from_numpy(rows[0][None])
    batches = [batch.to(device) for batch in _check_batches(x, manifest, endpoint)]
    wanted = [_run_net(net, batch) for batch in batches]
    other: nn.Module = net
    if endpoint.dtype == "bf16":
        other = Bf16Net(net, device, tuple(y.dtype for y in wanted[0]))
    if endpoint.compile:
        # Not compiled for nothing: what bf16 does to the answers shows at once, compiling takes a minute.
        _check_tolerance(other, batches, wanted, endpoint, manifest)
        kind = f"{endpoint.digest} {endpoint.dtype} {device}"
        key = hashlib.sha256(kind.encode()).hexdigest()[:16]
        try:
            other = compiled.load_compiled(
                other, batches[1], max_sequence_length(manifest.input_schema), cache / "compiled", key
            )
        except UserError as error:
            raise UserError(f"{endpoint.name} cannot be compiled: {error}; deploy it without --compile") from None
    _check_tolerance(other, batches, wanted, endpoint, manifest)
    return other


def max_relative_difference(given: Outputs, wanted: Outputs) -> float:
    """The largest difference of any output, as a share of that output's largest number; infinite where one is NaN."""
    shares = [0.0]
    for y, reference in zip(given, wanted, strict=True):
        if y.shape != reference.shape:
            return float("inf")
        y, reference = y.double(), reference.double()
        # What is infinite in both is no difference.
        apart = torch.where((y == reference) | (y.isnan() & reference.isnan()), 0.0, (y - reference).abs())
        finite = reference[reference.isfinite()].abs()
        size = float(finite.max()) if finite.numel() else 0.0
        most = float(apart.nan_to_num(nan=torch.inf).max()) if apart.numel() else 0.0
        shares.append(most / size if size else most)
    return max(shares)


def _check_tolerance(
    net: nn.Module, batches: list[Tensor], wanted: list[Outputs], endpoint: Endpoint, manifest: Manifest
) -> None:
    """Raise Mistake where a net's outputs are further from those wanted than the bundle allows."""
    try:
        found = max(max_relative_difference(_run_net(net, x), y) for x, y in zip(batches, wanted, strict=True))
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(
            f"{endpoint.name} in {endpoint.variant} does not run: {said}; {_suggest_options(endpoint)}"
        ) from None
    if not found <= manifest.tolerance:
        raise UserError(
            f"{endpoint.name} in {endpoint.variant} differs from fp32 by {found:.2g} of its largest output on the "
            f"bundle's example, and the bundle's tolerance is {manifest.tolerance:.2g}; {_suggest_options(endpoint)}, "
            "or publish it with a larger tolerance"
        )


def _suggest_options(endpoint: Endpoint) -> str:
    options = ["--dtype bf16"] * (endpoint.dtype == "bf16") + ["--compile"] * endpoint.compile
    return f"deploy it without {' and '.join(options)}"


def _check_batches(x: Tensor, manifest: Manifest, endpoint: Endpoint) -> Iterator[Tensor]:
    """One row, two, and as many as a batch takes; of rows of steps also the shortest and the longest."""
    words = manifest.input_schema
    if isinstance(words, TextInput | SeriesInput):
        x = _resize_time_axis(x, max(2, x.shape[1]), words.padding_value)
    for rows in (1, 2, endpoint.limits.max_batch_rows):
        yield x.expand(rows, *x.shape[1:]).contiguous()
    if isinstance(words, TextInput | SeriesInput):
        most = max_sequence_length(words) or 2
        for steps in {2, max(2, most)}:
            yield _resize_time_axis(x, steps, words.padding_value).expand(3, -1, *x.shape[2:]).contiguous()


def _resize_time_axis(x: Tensor, steps: int, padding: float) -> Tensor:
    """Cut rows (B, T, ...) after so many steps, or fill them up."""
    return nn.functional.pad(x[:, :steps], (0, 0) * (x.ndim - 2) + (0, max(0, steps - x.shape[1])), value=padding)


def _run_net(net: Callable[[Tensor], Tensor | Outputs], x: Tensor) -> Outputs:
    with torch.inference_mode():
        y = net(x)
    return y if isinstance(y, tuple) else (y,)


def _find_matmul_weights(net: fx.GraphModule, operators: set[str]) -> Iterator[nn.Parameter]:
    """Find the fp32 weights that nothing but these operators reads."""
    readers: dict[str, set[str]] = {}
    for node in net.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), set()).update(map(operator_name, node.users))
    weights = dict(net.named_parameters(remove_duplicate=False))
    # One weight may stand in a net by two names: what is read by either must be such an operator.
    every: dict[int, set[str]] = {}
    for name, found in readers.items():
        if name in weights:
            every.setdefault(id(weights[name]), set()).update(found)
    for weight in net.parameters():
        if weight.dtype == torch.float32 and every.get(id(weight), {""}) <= operators:
            yield weight


def operator_name(node: fx.Node) -> str:
    """An operator's bare name, as `linear`; empty for what is none of torch's."""
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).split("::")[-1] if schema is not None else ""
