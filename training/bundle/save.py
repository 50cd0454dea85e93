"""Save: exports a trained net and writes its bundle, the manifest last.

Train walk: training.worker.finalize -> [save.py] -> exported_program.py
"""
# Shapes: B rows of a batch (dynamic), T time steps or tokens of a row (dynamic), C classes, Z latent size.

import json
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from training.bundle.card import render_card
from training.bundle.datatypes import DATATYPES, datatype_of_torch
from training.bundle.exported_program import export_program, load_program
from training.bundle.manifest import (
    CARD_FILE,
    DECODER_FILE,
    EXAMPLE_FILE,
    MANIFEST_FILE,
    PROGRAM_FILE,
    TOKENIZER_FILE,
    Manifest,
    ModelInfo,
    TensorSpec,
    sha256,
)
from training.bundle.program.archive import REMEDY
from training.bundle.program.arguments import ProgramChangedError
from training.data.tokenizer import Tokenizer
from training.errors import BundleError, UserError
from training.schema import ImageInput, SeriesInput, TableInput, TextInput, max_sequence_length

# A text generator's example is the beginning of a row, which is a whole training text.
MAX_PROMPT_CHARACTERS = 80


def save_bundle(
    folder: str | Path,
    net: nn.Module,
    *,
    inputs: Tensor,
    info: ModelInfo,
    overwrite: bool = False,
    outputs: tuple[str, ...] = ("logits",),
    tokenizer: Tokenizer | None = None,
    example: Any = None,
    decoder: Callable[[Tensor], Tensor] | None = None,
    images: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Export a trained net and write its bundle.

    Args:
        folder: is created, once everything in it is written.
        net: on the CPU; takes one tensor (B, ...) and returns what `info.output_schema` describes.
        inputs: at least two real rows, shape (B, ...), of the dtype that callers will send.
        info: what the manifest and the card say.
        overwrite: whether a bundle that is at `folder` is replaced.
        outputs: names of the tensors that the net returns.
        tokenizer: of a text model.
        example: one real row as JSON; required for text, otherwise taken from `inputs`.
        decoder: of an image generator: latent vectors (B, Z) to images.
        images: PNG files for the card, by file name.

    Raises:
        UserError: `folder` exists, or is no bundle that could be overwritten; the net cannot be exported with dynamic
            dimensions, or returns something else than `info.output_schema` describes.
    """
    folder = Path(folder)
    _refuse_existing(folder, overwrite)
    _check_net_and_rows(net, inputs, info)
    net, inputs, max_length = net.eval(), _pad_to_two_steps(info, inputs), max_sequence_length(info.input_schema)
    tensors = _compute_outputs(net, inputs, outputs)
    specs = describe_tensors(info, inputs, tensors, outputs, tokenizer)
    program = export_program(net, inputs, max_length)
    request: dict[str, JsonValue] = {"inputs": [_example_input(info, inputs[0], example)]}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        bundle = Path(temporary) / folder.name
        bundle.mkdir()
        saved_net = _write_program(bundle / PROGRAM_FILE, program, inputs[:2])
        if info.output_schema.kind != "boxes":  # those of near scores may change places
            _check_rows_are_independent(saved_net, inputs[:8])
        if tokenizer:
            (bundle / TOKENIZER_FILE).write_text(tokenizer.to_json())
        if decoder:
            latent = torch.zeros(2, tensors[1].shape[1])
            _write_program(bundle / DECODER_FILE, export_program(_FunctionModule(decoder, net), latent), latent)
        for name, content in (images or {}).items():
            (bundle / name).write_bytes(content)
        (bundle / EXAMPLE_FILE).write_text(json.dumps(request, ensure_ascii=False) + "\n")
        manifest = _write_manifest(bundle, info, specs, sorted(images or {}))
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        bundle.rename(folder)
    return manifest


def _check_net_and_rows(net: Any, inputs: Any, info: ModelInfo) -> None:
    """Raise UserError unless the net is a module and the rows are at least two, of the type that callers send."""
    if not isinstance(net, nn.Module):
        raise UserError(f"the net is a {type(net).__name__}; give a torch.nn.Module")
    if not isinstance(inputs, Tensor):
        raise UserError(f"the rows are a {type(inputs).__name__}; give a tensor of shape (B, ...)")
    if inputs.ndim < 2 or len(inputs) < 2:
        raise UserError(f"the rows have shape {tuple(inputs.shape)}; give at least two, of shape (B, ...)")
    schema = info.input_schema
    if isinstance(schema, ImageInput):
        shape = (schema.channels, schema.height, schema.width)
        if inputs.dtype != torch.uint8 or tuple(inputs.shape[1:]) != shape:
            raise UserError(
                f"the rows are {inputs.dtype} of shape {tuple(inputs.shape)}; images are sent as torch.uint8, 0 to "
                f"255, of shape {('B', *shape)}; scale them in the net"
            )
    if isinstance(schema, TableInput) and tuple(inputs.shape[1:]) != (len(schema.features),):
        raise UserError(
            f"the rows have shape {tuple(inputs.shape)}, but the input schema has {len(schema.features)} features; "
            "give one number for each"
        )
    if isinstance(schema, TableInput):
        _check_table_dtype(schema, inputs.dtype)


def _check_table_dtype(schema: TableInput, dtype: torch.dtype) -> None:
    """Raise UserError where rows of this dtype cannot hold what is missing, or each category's index."""
    if schema.allow_missing and not dtype.is_floating_point:
        raise UserError(f"the rows are {dtype}, which has no NaN for a missing value; give rows of a float type")
    for feature in schema.features:
        last = len(feature.categories or ()) - 1
        if last > 0 and int(torch.tensor(last).to(dtype)) != last:
            raise UserError(
                f"{feature.name!r} has {last + 1} categories, whose indexes {dtype} does not hold; give rows of "
                "torch.float32"
            )


def _pad_to_two_steps(info: ModelInfo, inputs: Tensor) -> Tensor:
    """Pad rows of one time step or token, since torch.export would specialize the program to that length."""
    if max_sequence_length(info.input_schema) is None or inputs.shape[1] >= 2:
        return inputs
    padding = (0, 0) * (inputs.ndim - 2) + (0, 1)
    value: float = info.input_schema.padding_value  # type: ignore[union-attr]
    return torch.nn.functional.pad(inputs, padding, value=value)


def _compute_outputs(net: nn.Module, inputs: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Run a net; one tensor is a tuple of one.

    Raises:
        UserError: it fails, or returns anything but a tensor or as many as there are names.
    """
    try:
        with torch.inference_mode():
            output = net(inputs)
    except Exception as error:  # of the net's own code
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"the net fails for {inputs.dtype} rows of shape {tuple(inputs.shape)}: {type(error).__name__}: {reason}"
        ) from error
    tensors = output if type(output) is tuple else (output,)
    for each in tensors:
        if not isinstance(each, Tensor):
            what = type(output).__name__ if each is output else f"tuple with a {type(each).__name__}"
            raise UserError(f"the net returns a {what}; return one tensor, or a tuple of tensors")
    if len(tensors) != len(names):
        raise UserError(
            f"the net returns {len(tensors)} tensors, {len(names)} names are given ({', '.join(names)}); name each in "
            "outputs="
        )
    return tensors


def _refuse_existing(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise UserError(f"{folder} exists already; choose another folder, or save_bundle(..., overwrite=True)")
    if not (folder / MANIFEST_FILE).is_file():
        raise UserError(f"{folder} is no bundle, so it is not overwritten; choose another folder")


def _write_program(path: Path, program: torch.export.ExportedProgram, inputs: Tensor) -> nn.Module:
    """Write a program, check that replicas will read it and compute the same, and return what they will read.

    Raises:
        UserError: they will not; this shows here, not when the bundle is deployed.
    """
    torch.export.save(program, path)
    try:
        net = load_program(path)
        outputs = _run(net, inputs)
    except (BundleError, ProgramChangedError) as error:
        raise UserError(
            f"the net cannot be served: {str(error).removesuffix(f'; {REMEDY}')}; change the net"
        ) from error
    if not _is_same(outputs, _run(program.module(check_guards=False), inputs)):
        raise UserError("the net cannot be served: read again, it computes something else; report this net to Shoal")
    return net


def _run(net: nn.Module, inputs: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        outputs = net(inputs)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def _check_rows_are_independent(net: nn.Module, inputs: Tensor) -> None:
    """Check that a row gets alone the answer that it gets among others, as served batches are put together by chance.

    Raises:
        UserError: it gets another one, by more than rounding, or NaN.
    """
    for alone, together in zip(_run(net, inputs[:1]), _run(net, inputs), strict=True):
        if together.isnan().any():
            raise UserError("the net gives NaN for these inputs, and would for its callers; train or repair it first")
        scale = together.abs().max().item() if together.numel() else 0
        if not torch.allclose(alone.double(), together[:1].double(), rtol=0.01, atol=0.01 * scale, equal_nan=True):
            raise UserError(
                "the net cannot be served: the answer to a row depends on the rows beside it, and those are other "
                "callers'; compute each row for itself"
            )


def _is_same(outputs: list[Tensor], expected: list[Tensor]) -> bool:
    return len(outputs) == len(expected) and all(
        y.dtype == reference.dtype and torch.equal(y.nan_to_num(), reference.nan_to_num())
        for y, reference in zip(outputs, expected, strict=True)
    )


def _write_manifest(folder: Path, info: ModelInfo, specs: tuple[TensorSpec, ...], images: list[str]) -> Manifest:
    """Write the card, then the manifest with the checksums of all other files."""
    manifest = Manifest(
        **dict(info),
        created=datetime.now(UTC).replace(microsecond=0),
        inputs=(specs[0],),
        outputs=specs[1:],
        versions={"torch": torch.__version__, "shoal": version("shoal"), "python": platform.python_version()},
        files={},
    )
    (folder / CARD_FILE).write_text(render_card(manifest, images))
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    manifest = manifest.model_copy(update={"files": files})
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


class _FunctionModule(nn.Module):
    """A function of a net as a module of its own, with the net's weights."""

    def __init__(self, function: Callable[[Tensor], Tensor], net: nn.Module) -> None:
        super().__init__()
        self._net, self._function = net, function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


def _example_input(info: ModelInfo, row: Tensor, example: Any) -> JsonValue:
    if not isinstance(info.input_schema, TextInput):
        return info.input_schema.to_example(row)
    if example is None:
        raise UserError("a text model needs `example`; give one real row as JSON")
    text: JsonValue = example[:MAX_PROMPT_CHARACTERS] if info.output_schema.kind == "text" else example
    return text


def describe_tensors(
    info: ModelInfo, inputs: Tensor, outputs: tuple[Tensor, ...], names: tuple[str, ...], tokenizer: Tokenizer | None
) -> tuple[TensorSpec, ...]:
    """Describe the input and output tensors of a net.

    Args:
        info: gives the schemas.
        inputs: rows of shape (B, ...).
        outputs: what the net returned for them.
        names: of the outputs.
        tokenizer: of a text model.

    Returns:
        The input's spec, then one for each output.

    Raises:
        UserError: the outputs have other shapes than the output schema, or a dtype that no protocol carries.
    """
    has_time_axis = isinstance(info.input_schema, TextInput | SeriesInput)
    _check_shapes(info, inputs, outputs, inputs.shape[1] if has_time_axis else 0, tokenizer)
    specs = []
    for name, tensor in zip(("input", *names), (inputs, *outputs), strict=True):
        datatype = datatype_of_torch(tensor.dtype)
        if datatype is None:
            raise UserError(f"the net takes or returns {tensor.dtype}; convert it to one of {', '.join(DATATYPES)}")
        per_token = has_time_axis and (name == "input" or info.output_schema.kind in ("spans", "text"))
        dynamic_dims = 2 if per_token else 1
        shape = (*[-1] * dynamic_dims, *tensor.shape[dynamic_dims:])
        specs.append(TensorSpec(name=name, datatype=datatype, shape=shape))
    return tuple(specs)


def _check_shapes(
    info: ModelInfo, inputs: Tensor, outputs: tuple[Tensor, ...], time_steps: int, tokenizer: Tokenizer | None
) -> None:
    """Raise UserError unless the outputs have the shapes of the output schema."""
    expected = _expected_shapes(info, len(inputs), time_steps, tokenizer)
    shapes = [tuple(tensor.shape) for tensor in outputs]
    if len(shapes) == len(expected) and all(map(_fits, shapes, expected)):
        return
    expected_text = " and ".join(str(tuple("any" if size is None else size for size in shape)) for shape in expected)
    schema = info.output_schema
    raise UserError(
        f"the net returns {' and '.join(map(str, shapes))} for {len(inputs)} rows; a model with output "
        f"{schema.kind!r} must return {expected_text}: {(type(schema).__doc__ or '').strip()}"
    )


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size in (None, actual) for size, actual in zip(expected, shape, strict=True)
    )


def _expected_shapes(
    info: ModelInfo, rows: int, time_steps: int, tokenizer: Tokenizer | None
) -> list[tuple[int | None, ...]]:
    """The shapes of the outputs by the output schema; None is any size."""
    schema = info.output_schema
    if schema.kind == "classes":
        return [(rows, len(schema.labels))]
    if schema.kind == "number":
        return [(rows, 1)]
    if schema.kind == "spans":
        return [(rows, time_steps, 1 + 2 * len(schema.labels))]
    if schema.kind == "text":
        return [(rows, time_steps, len(tokenizer) if tokenizer else None)]
    if schema.kind == "boxes":
        return [(rows, None, 6)]
    image = info.input_schema
    size = (image.channels, image.height, image.width) if isinstance(image, ImageInput) else (None,) * 3
    return [(rows, *size), (rows, schema.latent_size), (rows, schema.latent_size)]
