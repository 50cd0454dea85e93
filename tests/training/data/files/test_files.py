"""Files of every format: read a little at a time, checked, divided by content, sampled and encoded; no cluster."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.protocols.predict import images
from training.data.files.columns import Column, RowReader, sort_categories
from training.data.files.read_tasks import RowStatistics, SampleLimits
from training.data.files.scan import FileScan, build_scan, find_shoal_error, plan_scan
from training.data.files.source import FileSource
from training.data.files.source_location import SourceLocation
from training.data.preprocessing import fit_preprocessing, prepare_dataset
from training.data.split import count_leaks
from training.errors import UserError
from training.recipe.spec import Files, Net, Recipe
from training.schema import SPLITS, Feature, ImageInput, TableInput

FORMATS = ("parquet", "csv", "jsonl")


def recipe(files: Files, task: str = "tabular-classification", **rest: Any) -> Recipe:
    return Recipe(name="r", task=task, data=files, net=Net(source="training.zoo.nets.mlp:mlp"), **rest)


def surveyed(made: Recipe) -> FileScan:
    """What `survey.survey` does, in this process."""
    files = made.data
    assert isinstance(files, Files)
    reader, units, expected = plan_scan(made, files)
    sample = SampleLimits(
        max_rows=files.sample_rows, max_bytes=files.sample_bytes, fractions=(0.72, 0.08, 0.2), expected_rows=expected
    )
    whole = RowStatistics(reader, sample)
    for unit in units:
        tally = RowStatistics(reader, sample)
        for table, dropped in reader.read_rows(unit):
            tally.add_rows(table, dropped)
        for piece in tally.to_chunks():
            whole.merge_chunk(piece)
    return build_scan(files, reader, units, whole)


def animals(count: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "weight": rng.normal(size=count).round(3),
            "legs": rng.integers(0, 9, count),
            "colour": rng.choice(["red", "green", "blue"], count),
        }
    )
    frame["kind"] = np.where(frame.legs > 4, "insect", "mammal")
    return frame


def write(frame: pd.DataFrame, folder: Path, format_: str, files: int = 3) -> Path:
    folder.mkdir()
    for i in range(files):
        part, path = frame.iloc[i::files], folder / f"part-{i}.{format_}"
        if format_ == "parquet":
            part.to_parquet(path, index=False, row_group_size=100)
        elif format_ == "csv":
            part.to_csv(path, index=False)
        else:
            part.to_json(path, orient="records", lines=True)
    return folder


@pytest.mark.parametrize("format_", FORMATS)
def test_a_table_is_the_same_rows_in_every_format(tmp_path: Path, format_: str) -> None:
    found = surveyed(recipe(Files(path=write(animals(), tmp_path / "a", format_), format=format_, target="kind")))
    expected = surveyed(recipe(Files(path=write(animals(), tmp_path / "b", "csv", 1), format="csv", target="kind")))

    dataset = found.to_dataset()
    assert dataset.labels == ("insect", "mammal")
    assert dataset.input_schema == TableInput(
        features=("weight", "legs", Feature(name="colour", categories=("blue", "green", "red")))
    )
    assert sum(found.rows.values()) == 600
    assert found.rows == expected.rows
    assert dataset.fingerprint() == expected.to_dataset().fingerprint()
    assert torch.equal(dataset.inputs, expected.to_dataset().inputs)
    assert torch.equal(dataset.targets, expected.to_dataset().targets)


def test_every_row_is_read_once_and_means_what_it_did_in_the_file(tmp_path: Path) -> None:
    frame = animals()
    found = surveyed(recipe(Files(path=write(frame, tmp_path / "a", "parquet"), format="parquet", target="kind")))

    dataset = found.to_dataset()
    levels, labels = ["blue", "green", "red"], ["insect", "mammal"]
    wanted = {
        (np.float32(row.weight), row.legs, levels.index(row.colour), labels.index(row.kind))
        for row in frame.itertuples()
    }
    rows = torch.cat([dataset.inputs, dataset.targets[:, None]], 1).tolist()
    assert {(np.float32(w), int(n), int(c), int(k)) for w, n, c, k in rows} == wanted


def test_a_regression_learns_the_targets_own_numbers(tmp_path: Path) -> None:
    files = Files(path=write(animals(), tmp_path / "a", "csv"), format="csv", target="weight", features=("legs",))

    dataset = surveyed(recipe(files, "tabular-regression")).to_dataset()

    assert dataset.labels == ("weight",)
    assert dataset.targets.dtype == torch.float32
    assert sorted(dataset.targets.tolist()) == sorted(animals().weight.astype("f4").tolist())


def test_texts_come_with_their_class_and_may_hold_line_breaks(tmp_path: Path) -> None:
    frame = pd.DataFrame({"review": [f'it\nis, "{i}"' for i in range(60)], "stars": [i % 3 + 9 for i in range(60)]})
    files = Files(path=write(frame, tmp_path / "a", "csv"), format="csv", target="stars", text="review")

    found = surveyed(recipe(files, "text-classification", tokens={"kind": "words"}))

    dataset = found.to_dataset()
    # As numbers, not as letters: 10 comes after 9.
    assert dataset.labels == ("9", "10", "11")
    assert sorted(dataset.inputs) == sorted(frame.review)
    assert all(
        int(text.split('"')[1]) % 3 == target for text, target in zip(dataset.inputs, dataset.targets, strict=True)
    )
    _, _, fitted = prepare_dataset(recipe(files, "text-classification", tokens={"kind": "words"}), found)
    assert fitted.tokenizer is not None


def pictures(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(40):
        name = ("light", "dark")[i % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (7 + i % 3, 9, 3), dtype=np.uint8) + np.uint8(150 * (name == "light"))
        Image.fromarray(pixels).save(folder / name / f"{i}.{('png', 'jpg', 'webp')[i % 3]}")
    (folder / "light" / "notes.txt").write_text("no picture")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "broken.png").write_text("no picture")
    return folder


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_is_trained_on_with_the_pixels_that_serving_would_see(tmp_path: Path, mode: str) -> None:
    folder = pictures(tmp_path / "a")
    files = Files(path=folder, format="images", height=8, width=6, mode=mode)

    dataset = surveyed(recipe(files, "image-classification")).to_dataset()

    words = ImageInput(height=8, width=6, mode=mode)
    assert dataset.input_schema == words
    assert dataset.labels == ("dark", "light")
    served = {
        (images.decode_image(path.read_bytes(), words, images.PixelBudget(1000))[0].tobytes(), path.parent.name)
        for path in folder.glob("[ld]*/[0-9]*")
    }
    rows = zip(dataset.inputs, dataset.targets.tolist(), strict=True)
    assert {(row.numpy().tobytes(), dataset.labels[target]) for row, target in rows} == served


def test_a_compressed_file_one_file_alone_and_a_uri_are_read_too(tmp_path: Path) -> None:
    folder = write(animals(), tmp_path / "a", "csv", files=1)
    expected = surveyed(recipe(Files(path=folder, format="csv", target="kind")))
    with gzip.open(tmp_path / "rows.csv.gz", "wb") as file:
        file.write((folder / "part-0.csv").read_bytes())

    for path in (tmp_path / "rows.csv.gz", folder / "part-0.csv", folder.as_uri()):
        found = surveyed(recipe(Files(path=path, format="csv", target="kind")))
        assert found.to_dataset().fingerprint() == expected.to_dataset().fingerprint()


def test_a_recipe_with_files_is_the_same_after_json() -> None:
    made = recipe(Files(path="rows", format="csv", target="y", features=("a", "b")))

    assert Recipe.model_validate(json.loads(made.model_dump_json())) == made
    assert isinstance(made.data, Files)
    assert Path(made.data.path).is_absolute()


@pytest.mark.parametrize(("missing", "rows", "dropped"), [("drop", 597, 3), ("mean", 600, 0)])
def test_what_is_missing_is_dropped_and_counted_or_left_for_the_mean(
    tmp_path: Path, missing: str, rows: int, dropped: int
) -> None:
    frame = animals()
    frame.loc[[3, 4], "weight"] = None
    frame.loc[5, "colour"] = None
    files = Files(path=write(frame, tmp_path / "a", "csv"), format="csv", target="kind")

    found = surveyed(recipe(files, clean={"missing": missing}))

    dataset = found.to_dataset()
    assert sum(found.rows.values()) == rows
    assert dataset.dropped_rows.get("missing", 0) == dropped
    assert int(dataset.inputs.isnan().any(1).sum()) == 3 - dropped
    assert fit_preprocessing(
        recipe(files, clean={"missing": missing}), dataset, found.split_index()["train"]
    ).input_schema.allow_missing == (missing == "mean")


def reader_of(levels: int, seed: int = 42) -> RowReader:
    inputs = (
        Column(name="n", kind="number"),
        Column(name="c", kind="category", categories=tuple("ab")[:levels] or None),
    )
    return RowReader(
        source=FileSource(folder="/", format="parquet"),
        inputs=inputs,
        target=Column(name="y", kind="label"),
        missing_policy="mean",
        test_fraction=0.2,
        validation_fraction=0.1,
        seed=seed,
    )


def checked(reader: RowReader, numbers: Any, texts: Any) -> pa.Table:
    """Rows as they are once the reader has read them: a missing number is one NaN, however it was written."""
    # Files are asked for numbers of 64 bits.
    batch = pa.record_batch(
        {"n": pa.array(numbers, pa.float32()).cast(pa.float64()), "c": pa.array(texts, pa.string())}
    )
    return reader._check_batch(batch.append_column("y", pa.array(["p"] * len(batch))), SourceLocation(file="rows"))[0]


ROW = st.tuples(st.floats(width=32), st.sampled_from(["a", "b", None]))


@given(st.lists(ROW, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_equal_rows_fall_into_one_part_wherever_they_stand(rows: list[tuple[float, str | None]], random: Any) -> None:
    again = rows * 2
    random.shuffle(again)
    reader = reader_of(2)

    def parts(some: list[tuple[float, str | None]]) -> list[int]:
        numbers, texts = zip(*some, strict=True)
        return reader.assign_splits(reader.hash_inputs(checked(reader, numbers, texts))).tolist()

    together = {repr(row): part for row, part in zip(again, parts(again), strict=True)}
    assert [together[repr(row)] for row in again] == parts(again)
    assert [parts([row])[0] for row in rows] == [together[repr(row)] for row in rows]


def test_what_is_missing_has_one_part_however_it_is_written() -> None:
    reader = reader_of(2)
    missing = np.array([0x7FC00000, 0xFFC00000, 0x7FC00001, 0x7F800001] * 9, np.uint32).view(np.float32)
    table = checked(reader, missing, ["a"] * len(missing))
    assert len(set(reader.hash_inputs(table).tolist())) == 1


def test_zero_has_one_part_whatever_its_sign_and_a_text_whatever_is_around_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": ["0", "-0", "0.0", "-0.0"] * 9, "c": ["a", " a"] * 18, "y": ["p", "q"] * 18})
    reader, units, _ = plan_scan(
        recipe(Files(path=write(frame, tmp_path / "a", "csv"), format="csv", target="y")),
        Files(path=tmp_path / "a", format="csv", target="y"),
    )

    hashes = {int(h) for unit in units for table, _ in reader.read_rows(unit) for h in reader.hash_inputs(table)}

    assert len(hashes) == 1


def test_parts_are_as_large_as_they_should_be_and_another_seed_divides_anew() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"n": rng.random(100_000, dtype=np.float32), "c": ["a"] * 100_000})
    first, other = (reader_of(2, seed) for seed in (1, 2))

    parts = first.assign_splits(first.hash_inputs(table))

    shares = np.bincount(parts, minlength=len(SPLITS)) / len(parts)
    # Within four standard deviations of a fair draw.
    assert np.allclose(shares, [0.72, 0.08, 0.2], atol=4 * np.sqrt(0.25 / len(parts)))
    assert 0.3 < (parts != other.assign_splits(other.hash_inputs(table))).mean() < 0.6


def test_no_duplicate_leaks_into_the_test_rows(tmp_path: Path) -> None:
    frame = pd.concat([animals(300)] * 4, ignore_index=True)

    found = surveyed(recipe(Files(path=write(frame, tmp_path / "a", "parquet"), format="parquet", target="kind")))

    assert sum(found.rows.values()) == 1200
    assert count_leaks(found.to_dataset(), found.split_index()) == 0


@pytest.mark.parametrize("expected", [None, 6000])
def test_a_sample_is_the_same_whatever_was_read_first_and_holds_as_many_as_it_may(expected: int | None) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"n": rng.random(6000, dtype=np.float32), "c": ["a", "b"] * 3000, "y": ["p", "q", "q"] * 2000})
    reader = reader_of(0)
    sample = SampleLimits(max_rows=200, max_bytes=2**20, fractions=(0.72, 0.08, 0.2), expected_rows=expected)

    def kept(cuts: list[pa.Table]) -> dict[str, pa.Table]:
        whole = RowStatistics(reader, sample)
        for cut in cuts:
            tally = RowStatistics(reader, sample)
            tally.add_rows(cut, 0)
            for piece in tally.to_chunks():
                whole.merge_chunk(piece)
        assert whole.counts["train"] > 4000
        return {part: whole.sample_table(part) for part in SPLITS}

    forwards = kept([table.slice(i, 1000) for i in range(0, 6000, 1000)])
    backwards = kept([table.slice(i, 700) for i in range(5600, -1, -700)])

    assert {part: len(rows) for part, rows in forwards.items()} == dict.fromkeys(SPLITS, 200)
    assert forwards == backwards


def test_a_sample_of_long_texts_keeps_to_its_bytes() -> None:
    reader = reader_of(0).model_copy(update={"inputs": (Column(name="t", kind="text"),)})
    table = pa.table({"t": [f"{i} " + "word " * (i % 500) for i in range(2000)], "y": ["p", "q"] * 1000})
    tally = RowStatistics(
        reader, SampleLimits(max_rows=2000, max_bytes=100_000, fractions=(0.72, 0.08, 0.2), expected_rows=None)
    )

    tally.add_rows(table, 0)

    for part in SPLITS:
        assert 50_000 < tally.sample_table(part).nbytes <= 110_000


MEASURE = """
import resource, sys
from training.recipe import Files, Net, Recipe
from training.data.files.scan import plan

files = Files(path=sys.argv[1], format=sys.argv[2], target="y")
recipe = Recipe(name="r", task="tabular-regression", data=files, net=Net(source="training.zoo.nets.mlp:mlp"))
reader, (unit,), _ = plan(recipe, files)
next(reader.read(unit))
before, rows = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
for table, _ in reader.read(unit):
    rows += len(table)
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_of_100_mb_is_never_whole_in_memory(tmp_path: Path, format_: str) -> None:
    numbers = np.random.default_rng(0).random((1000, 20), dtype=np.float32)
    block = pd.DataFrame(numbers, columns=[f"x{i}" for i in range(19)] + ["y"])
    path = tmp_path / f"rows.{format_}"
    if format_ == "parquet":
        block.sample(1_300_000, replace=True, random_state=0).to_parquet(
            path, compression=None, row_group_size=2_000_000, use_dictionary=False
        )
    else:
        lines = (
            block.to_csv(index=False) if format_ == "csv" else block.to_json(orient="records", lines=True)
        ).encode()
        header, _, rest = lines.partition(b"\n") if format_ == "csv" else (b"", b"", lines)
        with path.open("wb") as file:
            file.write(header + b"\n" * bool(header))
            for _ in range(100_000_000 // len(rest)):
                file.write(rest)
    command = [sys.executable, "-c", MEASURE, str(path), format_]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    rows, grown_mb = done.stdout.split()
    assert path.stat().st_size > 95_000_000
    assert int(rows) > 200_000
    assert float(grown_mb) < 50


def test_an_error_of_ours_comes_out_of_what_ray_data_puts_around_it() -> None:
    inner = UserError("a.csv, row 2: no number\nFailed to apply UDF transform after 1/1 attempts")
    outer = RuntimeError("a worker failed")
    outer.__cause__ = inner

    found = find_shoal_error(outer)

    assert isinstance(found, UserError)
    assert str(found) == "a.csv, row 2: no number"
    assert find_shoal_error(ValueError("something else")) is None


def test_classes_are_ordered_by_size_where_all_are_numbers_else_by_letters() -> None:
    assert sort_categories({"10", "9", "-1"}) == ("-1", "9", "10")
    assert sort_categories({"b", "10", "9"}) == ("10", "9", "b")
