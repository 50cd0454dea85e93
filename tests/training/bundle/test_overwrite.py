"""A bundle is written whole or not at all, and replaces nothing unasked."""

from pathlib import Path

import pytest
import torch
from torch import nn

from training import ClassOutput, ModelInfo, TableInput, UserError, load_bundle, save_bundle

INFO = ModelInfo(
    name="sizes",
    task="tabular-classification",
    input_schema=TableInput(features=("width", "height")),
    output_schema=ClassOutput(labels=("small", "large")),
)
ROWS = torch.tensor([[0.5, 1.5], [2.0, 0.1]])


def test_a_second_save_is_refused_in_one_line_that_says_how(tmp_path: Path) -> None:
    folder = str(tmp_path / "new" / "bundle")
    first = save_bundle(folder, nn.Linear(2, 2), inputs=ROWS, info=INFO)

    with pytest.raises(UserError, match=r"^.*bundle exists already; .*save_bundle\(\.\.\., overwrite=True\)$"):
        save_bundle(folder, nn.Linear(2, 2), inputs=ROWS, info=INFO)

    assert load_bundle(Path(folder)).manifest.digest == first.digest


def test_overwriting_replaces_every_file(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    first = save_bundle(folder, nn.Linear(2, 2), inputs=ROWS, info=INFO, images={"loss.png": b"image"})

    second = save_bundle(folder, nn.Linear(2, 2), inputs=ROWS, info=INFO, overwrite=True)

    assert load_bundle(folder).manifest.digest == second.digest != first.digest
    assert not (folder / "loss.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_is_no_bundle_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(UserError, match="is no bundle, so it is not overwritten"):
        save_bundle(tmp_path, nn.Linear(2, 2), inputs=ROWS, info=INFO, overwrite=True)

    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_save_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    first = save_bundle(folder, nn.Linear(2, 2), inputs=ROWS, info=INFO)

    with pytest.raises(UserError, match="must return"):
        save_bundle(folder, nn.Linear(2, 5), inputs=ROWS, info=INFO, overwrite=True)

    assert load_bundle(folder).manifest.digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
