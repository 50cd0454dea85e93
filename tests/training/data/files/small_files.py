"""Small files of every format, and a scan of them in this process, without a cluster."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from training.data.files.columns import Column
from training.data.files.read_units import FileSource
from training.data.files.row_reader import RowReader
from training.data.files.row_statistics import RowStatistics, SampleLimits
from training.data.files.scan import FileScan, build_scan, plan_scan
from training.recipe.spec import Files, Net, Recipe

FORMATS = ("parquet", "csv", "jsonl")


def make_recipe(files: Files, task: str = "tabular-classification", **fields: Any) -> Recipe:
    return Recipe(name="r", task=task, data=files, net=Net(source="training.zoo.nets.mlp:mlp"), **fields)


def scan_locally(recipe: Recipe) -> FileScan:
    """What `scan_files` does, without Ray Data."""
    files = recipe.data
    assert isinstance(files, Files)
    reader, units, expected_rows = plan_scan(recipe, files)
    limits = SampleLimits(
        max_rows=files.sample_rows,
        max_bytes=files.sample_bytes,
        fractions=(0.72, 0.08, 0.2),
        expected_rows=expected_rows,
    )
    merged = RowStatistics(reader, limits)
    for unit in units:
        statistics = RowStatistics(reader, limits)
        for table, dropped in reader.read_rows(unit):
            statistics.add_rows(table, dropped)
        for chunk in statistics.to_chunks():
            merged.merge_chunk(chunk)
    return build_scan(files, reader, units, merged)


def make_reader(num_categories: int, seed: int = 42) -> RowReader:
    """A reader of a number `n`, a category `c` and a label `y`."""
    inputs = (
        Column(name="n", kind="number"),
        Column(name="c", kind="category", categories=tuple("ab")[:num_categories] or None),
    )
    return RowReader(
        source=FileSource(path="/", format="parquet"),
        inputs=inputs,
        target=Column(name="y", kind="label"),
        missing_policy="mean",
        test_fraction=0.2,
        validation_fraction=0.1,
        seed=seed,
    )


def make_animals(count: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "weight": rng.normal(size=count).round(3),
            "legs": rng.integers(0, 9, count),
            "color": rng.choice(["red", "green", "blue"], count),
        }
    )
    frame["kind"] = np.where(frame.legs > 4, "insect", "mammal")
    return frame


def write_files(frame: pd.DataFrame, folder: Path, format_: str, num_files: int = 3) -> Path:
    """Deal the rows out to several files of a new folder."""
    folder.mkdir()
    for index in range(num_files):
        rows, path = frame.iloc[index::num_files], folder / f"part-{index}.{format_}"
        if format_ == "parquet":
            rows.to_parquet(path, index=False, row_group_size=100)
        elif format_ == "csv":
            rows.to_csv(path, index=False)
        else:
            rows.to_json(path, orient="records", lines=True)
    return folder


def write_images(folder: Path) -> Path:
    """Write light and dark images of several formats and sizes, and files that are not to be read."""
    rng = np.random.default_rng(0)
    for index in range(40):
        name = ("light", "dark")[index % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (7 + index % 3, 9, 3), dtype=np.uint8) + np.uint8(150 * (name == "light"))
        Image.fromarray(pixels).save(folder / name / f"{index}.{('png', 'jpg', 'webp')[index % 3]}")
    (folder / "light" / "notes.txt").write_text("not an image")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "broken.png").write_text("not an image")
    return folder
