"""Scan: files of every format are read in small batches, checked, split by content and sampled; no cluster."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from deployments.protocols.predict import images
from tests.training.data.files.small_files import (
    FORMATS,
    make_animals,
    make_recipe,
    scan_locally,
    write_files,
    write_images,
)
from training.data.files.scan import find_shoal_error
from training.data.preprocessing import fit_preprocessing, prepare_dataset
from training.data.split import count_leaks
from training.errors import UserError
from training.recipe.spec import Files, Recipe
from training.schema import Feature, ImageInput, TableInput


@pytest.mark.parametrize("format_", FORMATS)
def test_a_table_has_the_same_rows_in_every_format(tmp_path: Path, format_: str) -> None:
    files = Files(path=write_files(make_animals(), tmp_path / "a", format_), format=format_, target="kind")
    csv_file = Files(path=write_files(make_animals(), tmp_path / "b", "csv", 1), format="csv", target="kind")

    scan, expected = scan_locally(make_recipe(files)), scan_locally(make_recipe(csv_file))

    dataset = scan.to_dataset()
    assert dataset.labels == ("insect", "mammal")
    assert dataset.input_schema == TableInput(
        features=("weight", "legs", Feature(name="color", categories=("blue", "green", "red")))
    )
    assert sum(scan.row_counts.values()) == 600
    assert scan.row_counts == expected.row_counts
    assert dataset.fingerprint() == expected.to_dataset().fingerprint()
    assert torch.equal(dataset.inputs, expected.to_dataset().inputs)
    assert torch.equal(dataset.targets, expected.to_dataset().targets)


def test_every_row_is_read_once_with_the_values_of_the_file(tmp_path: Path) -> None:
    frame = make_animals()
    files = Files(path=write_files(frame, tmp_path / "a", "parquet"), format="parquet", target="kind")

    dataset = scan_locally(make_recipe(files)).to_dataset()

    categories, labels = ["blue", "green", "red"], ["insect", "mammal"]
    expected = {
        (np.float32(row.weight), row.legs, categories.index(row.color), labels.index(row.kind))
        for row in frame.itertuples()
    }
    rows = torch.cat([dataset.inputs, dataset.targets[:, None]], 1).tolist()
    assert {(np.float32(w), int(n), int(c), int(k)) for w, n, c, k in rows} == expected


def test_a_regression_gets_the_targets_own_numbers(tmp_path: Path) -> None:
    folder = write_files(make_animals(), tmp_path / "a", "csv")
    files = Files(path=folder, format="csv", target="weight", features=("legs",))

    dataset = scan_locally(make_recipe(files, "tabular-regression")).to_dataset()

    assert dataset.labels == ("weight",)
    assert dataset.targets.dtype == torch.float32
    assert sorted(dataset.targets.tolist()) == sorted(make_animals().weight.astype("f4").tolist())


def test_texts_come_with_their_class_and_may_have_line_breaks(tmp_path: Path) -> None:
    frame = pd.DataFrame({"review": [f'it\nis, "{i}"' for i in range(60)], "stars": [i % 3 + 9 for i in range(60)]})
    files = Files(path=write_files(frame, tmp_path / "a", "csv"), format="csv", target="stars", text="review")
    recipe = make_recipe(files, "text-classification", tokenizer={"kind": "words"})

    scan = scan_locally(recipe)

    dataset = scan.to_dataset()
    # By value, not alphabetically: 10 comes after 9.
    assert dataset.labels == ("9", "10", "11")
    assert sorted(dataset.inputs) == sorted(frame.review)
    assert all(
        int(text.split('"')[1]) % 3 == target for text, target in zip(dataset.inputs, dataset.targets, strict=True)
    )
    _, _, preprocessing = prepare_dataset(recipe, scan)
    assert preprocessing.tokenizer is not None


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_training_sees_an_images_pixels_as_serving_does(tmp_path: Path, mode: str) -> None:
    folder = write_images(tmp_path / "a")
    files = Files(path=folder, format="images", height=8, width=6, mode=mode)

    dataset = scan_locally(make_recipe(files, "image-classification")).to_dataset()

    schema = ImageInput(height=8, width=6, mode=mode)
    assert dataset.input_schema == schema
    assert dataset.labels == ("dark", "light")
    served = {
        (images.decode_image(path.read_bytes(), schema, images.PixelBudget(1000))[0].tobytes(), path.parent.name)
        for path in folder.glob("[ld]*/[0-9]*")
    }
    rows = zip(dataset.inputs, dataset.targets.tolist(), strict=True)
    assert {(row.numpy().tobytes(), dataset.labels[target]) for row, target in rows} == served


def test_a_compressed_file_a_single_file_and_a_uri_are_read(tmp_path: Path) -> None:
    folder = write_files(make_animals(), tmp_path / "a", "csv", num_files=1)
    expected = scan_locally(make_recipe(Files(path=folder, format="csv", target="kind")))
    with gzip.open(tmp_path / "rows.csv.gz", "wb") as file:
        file.write((folder / "part-0.csv").read_bytes())

    for path in (tmp_path / "rows.csv.gz", folder / "part-0.csv", folder.as_uri()):
        scan = scan_locally(make_recipe(Files(path=path, format="csv", target="kind")))
        assert scan.to_dataset().fingerprint() == expected.to_dataset().fingerprint()


def test_a_recipe_with_files_survives_json() -> None:
    recipe = make_recipe(Files(path="rows", format="csv", target="y", features=("a", "b")))

    assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe
    assert isinstance(recipe.data, Files)
    assert Path(recipe.data.path).is_absolute()


@pytest.mark.parametrize(("missing", "rows", "dropped"), [("drop", 597, 3), ("mean", 600, 0)])
def test_rows_with_missing_values_are_dropped_and_counted_or_left_to_be_imputed(
    tmp_path: Path, missing: str, rows: int, dropped: int
) -> None:
    frame = make_animals()
    frame.loc[[3, 4], "weight"] = None
    frame.loc[5, "color"] = None
    files = Files(path=write_files(frame, tmp_path / "a", "csv"), format="csv", target="kind")
    recipe = make_recipe(files, clean={"missing": missing})

    scan = scan_locally(recipe)

    dataset = scan.to_dataset()
    assert sum(scan.row_counts.values()) == rows
    assert dataset.dropped_rows.get("missing", 0) == dropped
    assert int(dataset.inputs.isnan().any(1).sum()) == 3 - dropped
    preprocessing = fit_preprocessing(recipe, dataset, scan.split_index()["train"])
    assert preprocessing.input_schema.allow_missing == (missing == "mean")


def test_no_duplicate_leaks_into_the_test_rows(tmp_path: Path) -> None:
    frame = pd.concat([make_animals(300)] * 4, ignore_index=True)
    files = Files(path=write_files(frame, tmp_path / "a", "parquet"), format="parquet", target="kind")

    scan = scan_locally(make_recipe(files))

    assert sum(scan.row_counts.values()) == 1200
    assert count_leaks(scan.to_dataset(), scan.split_index()) == 0


# After each batch, since the peak that the system keeps of a process includes its parent's before exec.
MEASURE_MEMORY = """
import sys
import psutil
from training.data.files.scan import plan_scan
from training.recipe.spec import Files, Net, Recipe

process = psutil.Process()
for path in sys.argv[1:]:
    files = Files(path=path, format=path.rpartition(".")[2], target="y")
    recipe = Recipe(name="r", task="tabular-regression", data=files, net=Net(source="training.zoo.nets.mlp:mlp"))
    reader, (unit,), _ = plan_scan(recipe, files)
    next(reader.read_rows(unit))
    before, peak, rows = process.memory_info().rss, 0, 0
    for table, _ in reader.read_rows(unit):
        peak, rows = max(peak, process.memory_info().rss), rows + len(table)
    print(rows, (peak - before) / 2**20)
"""


def test_a_file_of_100_mb_is_never_in_memory_at_once(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).random((1000, 20), dtype=np.float32)
    frame = pd.DataFrame(numbers, columns=[f"x{i}" for i in range(19)] + ["y"])
    frame.sample(1_300_000, replace=True, random_state=0).to_parquet(
        tmp_path / "rows.parquet", compression=None, row_group_size=2_000_000, use_dictionary=False
    )
    header, _, lines = frame.to_csv(index=False).encode().partition(b"\n")
    (tmp_path / "rows.csv").write_bytes(header + b"\n" + lines * (100_000_000 // len(lines)))
    lines = frame.to_json(orient="records", lines=True).encode()
    (tmp_path / "rows.jsonl").write_bytes(lines * (100_000_000 // len(lines)))
    paths = sorted(tmp_path.iterdir())
    assert all(path.stat().st_size > 95_000_000 for path in paths)

    growths_mb: dict[int, list[float]] = {}
    # What allocators keep of what was freed varies by 40 MB from one process to the next.
    for _ in range(3):
        process = subprocess.run(
            [sys.executable, "-c", MEASURE_MEMORY, *map(str, paths)], capture_output=True, text=True, check=True
        )
        for rows, growth_mb in (line.split() for line in process.stdout.splitlines()):
            growths_mb.setdefault(int(rows), []).append(float(growth_mb))
        if all(min(each) < 50 for each in growths_mb.values()):
            break

    assert len(growths_mb) == len(FORMATS)
    assert min(growths_mb) > 200_000
    assert all(min(each) < 50 for each in growths_mb.values()), growths_mb


def test_what_runs_in_read_tasks_imports_neither_torch_nor_ray() -> None:
    code = "import sys, training.data.files.read_tasks; print({'torch', 'ray'} & sys.modules.keys())"

    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert process.stdout.strip() == "set()"


def test_an_error_of_ours_is_found_in_what_ray_data_raises() -> None:
    cause = UserError("a.csv, row 2: not JSON\nFailed to apply UDF transform after 1/1 attempts")
    error = RuntimeError("a worker failed")
    error.__cause__ = cause

    shoal_error = find_shoal_error(error)

    assert isinstance(shoal_error, UserError)
    assert str(shoal_error) == "a.csv, row 2: not JSON"
    assert find_shoal_error(ValueError("something else")) is None
