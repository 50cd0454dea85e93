"""Variants of a net: bf16, compiled, or both; checked against the net as it was trained, or refused.

Deploy walk: served_model.py -> [variants.py] -> compiled.py
Knows nothing of requests: it takes a net and one real row, and returns a net with the same outputs within a tolerance.
"""
# Shapes: B rows of a batch, T time steps.

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from deployments.models.compiled import load_compiled
from deployments.protocols.arrays import Rows
from deployments.specs.model_deployment import ModelEndpoint
from training.bundle.manifest import Manifest
from training.bundle.program.interpreter import ProgramModule
from training.errors import UserError
from training.schema import SeriesInput, TextInput, max_sequence_length

Outputs = tuple[Tensor, ...]

# The operators that autocast runs in bf16, on CPUs and GPUs alike.
_BF16_OPERATORS = {"linear", "conv1d", "conv2d", "conv3d", "matmul", "mm", "bmm", "addmm", "baddbmm"}
# On GPUs cuDNN takes a recurrence's weights as one block, which autocast builds itself.
_RECURRENT_OPERATORS = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


class Bf16Net(nn.Module):
    """A net whose matrix products are computed in bf16 (torch.autocast), with outputs of its own dtypes.

    Everything else, such as sums over many numbers, stays in fp32. Weights that only these products read are stored in
    bf16: autocast would convert them at each call.
    """

    def __init__(self, net: ProgramModule, device: str, output_dtypes: tuple[torch.dtype, ...]) -> None:
        super().__init__()
        self._net, self._device_type, self._output_dtypes = net, torch.device(device).type, output_dtypes
        for weight in _find_matmul_weights(net, _BF16_OPERATORS | (_RECURRENT_OPERATORS if device == "cpu" else set())):
            weight.data = weight.data.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        """The same shapes and dtypes as the net's."""
        with torch.autocast(self._device_type, torch.bfloat16, cache_enabled=False):
            y = self._net(x)
        if isinstance(y, tuple):
            return tuple(each.to(dtype) for each, dtype in zip(y, self._output_dtypes, strict=True))
        output: Tensor = y.to(self._output_dtypes[0])
        return output


def build_variant(
    net: nn.Module, endpoint: ModelEndpoint, manifest: Manifest, rows: Rows, device: str, cache: Path
) -> nn.Module:
    """Build the variant of a net that its endpoint names.

    Args:
        net: the bundle's, on the device; it is changed in place.
        endpoint: names the variant, and the maximum rows of a batch.
        manifest: the bundle's; it gives the tolerance.
        rows: the bundle's example, of which the first row is used.
        device: "cpu", or "cuda:0".
        cache: folder whose `compiled` keeps machine code.

    Returns:
        A net for any number of rows and time steps that the bundle's net takes.

    Raises:
        UserError: the variant cannot be built, or differs too much from the net; the message says what to do.
    """
    if endpoint.variant == "fp32":
        return net
    assert isinstance(net, ProgramModule)
    net.disable_input_checks()
    x = torch.from_numpy(rows[0][None])
    batches = [batch.to(device) for batch in _make_batches(x, manifest, endpoint)]
    expected = [_run_net(net, batch) for batch in batches]
    variant: nn.Module = net
    if endpoint.dtype == "bf16":
        variant = Bf16Net(net, device, tuple(y.dtype for y in expected[0]))
    if endpoint.compile:
        # Checked before as well: compiling takes a minute, and bf16 alone may already exceed the tolerance.
        _check_tolerance(variant, batches, expected, endpoint, manifest)
        key = hashlib.sha256(f"{endpoint.digest} {endpoint.dtype} {device}".encode()).hexdigest()[:16]
        max_time_steps = max_sequence_length(manifest.input_schema)
        try:
            variant = load_compiled(variant, batches[1], max_time_steps, cache / "compiled", key)
        except UserError as error:
            raise UserError(f"{endpoint.name} cannot be compiled: {error}; deploy it without --compile") from None
    _check_tolerance(variant, batches, expected, endpoint, manifest)
    return variant


def max_relative_difference(actual: Outputs, expected: Outputs) -> float:
    """The largest difference of any output, relative to that output's largest number; infinite where one is NaN."""
    differences = [0.0]
    for y, reference in zip(actual, expected, strict=True):
        if y.shape != reference.shape:
            return float("inf")
        y, reference = y.double(), reference.double()
        # Equal infinities and NaN in both are no difference.
        is_same = (y == reference) | (y.isnan() & reference.isnan())
        difference = torch.where(is_same, 0.0, (y - reference).abs()).nan_to_num(nan=torch.inf)
        finite = reference[reference.isfinite()].abs()
        scale = float(finite.max()) if finite.numel() else 0.0
        largest = float(difference.max()) if difference.numel() else 0.0
        differences.append(largest / scale if scale else largest)
    return max(differences)


def _check_tolerance(
    net: nn.Module, batches: list[Tensor], expected: list[Outputs], endpoint: ModelEndpoint, manifest: Manifest
) -> None:
    """Raise UserError where a net's outputs differ from the expected ones by more than the bundle's tolerance."""
    try:
        difference = max(max_relative_difference(_run_net(net, x), y) for x, y in zip(batches, expected, strict=True))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{endpoint.name} in {endpoint.variant} does not run: {reason}; {_suggest_options(endpoint)}"
        ) from None
    if not difference <= manifest.tolerance:
        raise UserError(
            f"{endpoint.name} in {endpoint.variant} differs from fp32 by {difference:.2g} of its largest output on the "
            f"bundle's example, and the bundle's tolerance is {manifest.tolerance:.2g}; {_suggest_options(endpoint)}, "
            "or publish it with a larger tolerance"
        )


def _suggest_options(endpoint: ModelEndpoint) -> str:
    options = ["--dtype bf16"] * (endpoint.dtype == "bf16") + ["--compile"] * endpoint.compile
    return f"deploy it without {' and '.join(options)}"


def _make_batches(x: Tensor, manifest: Manifest, endpoint: ModelEndpoint) -> Iterator[Tensor]:
    """Make batches of one, two and the maximum number of rows; with a time axis also of minimal and maximal length."""
    schema = manifest.input_schema
    if isinstance(schema, TextInput | SeriesInput):
        x = _resize_time_axis(x, max(2, x.shape[1]), schema.padding_value)
    for rows in (1, 2, endpoint.limits.max_batch_rows):
        yield x.expand(rows, *x.shape[1:]).contiguous()
    if isinstance(schema, TextInput | SeriesInput):
        for time_steps in {2, max(2, max_sequence_length(schema) or 2)}:
            yield _resize_time_axis(x, time_steps, schema.padding_value).expand(3, -1, *x.shape[2:]).contiguous()


def _resize_time_axis(x: Tensor, time_steps: int, padding_value: float) -> Tensor:
    """Truncate or pad rows (B, T, ...) to a number of time steps."""
    padding = (0, 0) * (x.ndim - 2) + (0, max(0, time_steps - x.shape[1]))
    return nn.functional.pad(x[:, :time_steps], padding, value=padding_value)


def _run_net(net: Callable[[Tensor], Tensor | Outputs], x: Tensor) -> Outputs:
    with torch.inference_mode():
        y = net(x)
    return y if isinstance(y, tuple) else (y,)


def _find_matmul_weights(net: ProgramModule, operators: set[str]) -> Iterator[nn.Parameter]:
    """Find the fp32 weights that only these operators read."""
    weights = dict(net.named_parameters(remove_duplicate=False))
    # A weight that has two names is read by the readers of both.
    readers_by_id: dict[int, set[str]] = {}
    for name, names in net.readers.items():
        if name in weights:
            readers_by_id.setdefault(id(weights[name]), set()).update(names)
    for weight in net.parameters():
        if weight.dtype == torch.float32 and readers_by_id.get(id(weight), {""}) <= operators:
            yield weight
