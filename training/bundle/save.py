"""Save: a trained net is exported, and its bundle folder written and sealed.

Train walk: training.worker.finalize -> [save.py] -> training.registry
"""
# Shapes: B rows of a batch (dynamic), T steps of a row (dynamic where rows have any), C classes, Z latent numbers.

import json
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from training.bundle import card
from training.bundle.datatypes import DATATYPES
from training.bundle.exported_program import export_program
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
from training.data.tokenizer import Tokenizer
from training.errors import UserError
from training.schema import ImageInput, SeriesInput, TextInput, max_sequence_length


def save_bundle(
    folder: Path,
    net: nn.Module,
    *,
    inputs: Tensor,
    info: ModelInfo,
    outputs: tuple[str, ...] = ("logits",),
    tokenizer: Tokenizer | None = None,
    example: Any = None,
    decoder: Callable[[Tensor], Tensor] | None = None,
    images: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Export a trained net and write its bundle folder.

    Args:
        folder: is made; must not exist yet.
        net: on the CPU; takes one tensor (B, ...) and gives what `about.answer` says.
        inputs: at least two real rows, shape (B, ...), of the type that callers will send.
        about: what the card says.
        outputs: names of the tensors that the net gives.
        tokeniser: for text.
        example: one real row in words; needed for text, else taken from `inputs`.
        decoder: for pictures: latent numbers (B, Z) to pictures.
        pictures: PNG files for the card, by name.

    Raises:
        Mistake: the net cannot be exported with free dimensions, or does not give what `about.answer` says.
    """
    net, longest = net.eval(), max_sequence_length(info.input_schema)
    if longest is not None and inputs.shape[1] < 2:
        filling = (0, 0) * (inputs.ndim - 2) + (0, 1)
        inputs = torch.nn.functional.pad(inputs, filling, value=info.input_schema.padding_value)  # type: ignore[union-attr]
    with torch.inference_mode():
        given = net(inputs)
    given = given if isinstance(given, tuple) else (given,)
    described = describe_tensors(info, inputs, given, outputs, tokenizer)
    written = export_program(net, inputs, longest)
    folder.mkdir(parents=True)
    torch.export.save(written, folder / PROGRAM_FILE)
    if tokenizer:
        (folder / TOKENIZER_FILE).write_text(tokenizer.to_json())
    if decoder:
        latent = torch.zeros(2, given[1].shape[1])
        torch.export.save(export_program(_FunctionModule(decoder, net), latent), folder / DECODER_FILE)
    for name, content in (images or {}).items():
        (folder / name).write_bytes(content)
    request: dict[str, JsonValue] = {"inputs": [_example_input(info, inputs[0], example)]}
    (folder / EXAMPLE_FILE).write_text(json.dumps(request, ensure_ascii=False) + "\n")
    return _write_manifest(folder, info, described, sorted(images or {}))


def _write_manifest(folder: Path, about: ModelInfo, described: tuple[TensorSpec, ...], pictures: list[str]) -> Manifest:
    """Write the card, then the manifest over everything."""
    manifest = Manifest(
        **dict(about),
        created=datetime.now(UTC).replace(microsecond=0),
        inputs=(described[0],),
        outputs=described[1:],
        versions={"torch": torch.__version__, "shoal": version("shoal"), "python": platform.python_version()},
        files={},
    )
    (folder / CARD_FILE).write_text(card.render_card(manifest, pictures))
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    manifest = manifest.model_copy(update={"files": files})
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


class _FunctionModule(nn.Module):
    """A function of a net as a net of its own, with the same weights."""

    def __init__(self, function: Callable[[Tensor], Tensor], net: nn.Module) -> None:
        super().__init__()
        self._net, self._function = net, function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


def _example_input(about: ModelInfo, row: Tensor, example: Any) -> JsonValue:
    if isinstance(about.input_schema, TextInput):
        if example is None:
            raise UserError("a bundle for text needs `example`: one real row in words")
        said: JsonValue = example[:80] if about.output_schema.kind == "text" else example
        return said
    return about.input_schema.to_example(row)


def describe_tensors(
    info: ModelInfo, inputs: Tensor, outputs: tuple[Tensor, ...], names: tuple[str, ...], tokenizer: Tokenizer | None
) -> tuple[TensorSpec, ...]:
    """Describe input and outputs, after checking that they are what words and answer say."""
    stepped = isinstance(info.input_schema, TextInput | SeriesInput)
    rows, steps = len(inputs), inputs.shape[1] if stepped else 0
    wanted = _expected_shapes(info, rows, steps, tokenizer)
    shapes = [tuple(tensor.shape) for tensor in outputs]
    if len(shapes) != len(wanted) or any(
        len(shape) != len(want) or any(n not in (None, got) for n, got in zip(want, shape, strict=True))
        for shape, want in zip(shapes, wanted, strict=True)
    ):
        said = " and ".join(str(tuple("any" if n is None else n for n in want)) for want in wanted)
        raise UserError(
            f"the net gives {' and '.join(map(str, shapes))} for {rows} rows; a model whose answer is "
            f"{info.output_schema.kind} must give {said}: {(type(info.output_schema).__doc__ or '').strip()}"
        )
    described = []
    for name, tensor in zip(("input", *names), (inputs, *outputs), strict=True):
        if tensor.dtype not in DATATYPES:
            raise UserError(f"the net takes or gives {tensor.dtype}; convert to one of {', '.join(DATATYPES.values())}")
        free = 2 if stepped and (name == "input" or info.output_schema.kind in ("spans", "text")) else 1
        shape = (*[-1] * free, *tensor.shape[free:])
        described.append(TensorSpec(name=name, datatype=DATATYPES[tensor.dtype], shape=shape))
    return tuple(described)


def _expected_shapes(
    about: ModelInfo, rows: int, steps: int, tokeniser: Tokenizer | None
) -> list[tuple[int | None, ...]]:
    """The shapes that an answer's outputs have; None for any size."""
    answer = about.output_schema
    if answer.kind == "classes":
        return [(rows, len(answer.labels))]
    if answer.kind == "number":
        return [(rows, 1)]
    if answer.kind == "spans":
        return [(rows, steps, 1 + 2 * len(answer.labels))]
    if answer.kind == "text":
        return [(rows, steps, len(tokeniser) if tokeniser else None)]
    if answer.kind == "boxes":
        return [(rows, None, 6)]
    picture = about.input_schema
    size = (picture.channels, picture.height, picture.width) if isinstance(picture, ImageInput) else (None,) * 3
    return [(rows, *size), (rows, answer.latent_size), (rows, answer.latent_size)]
