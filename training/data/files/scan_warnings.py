"""Scan warnings: what a scan found that is no error, and that the user should know.

Train walk: scan.py -> [scan_warnings.py]
"""
# Shapes: N rows of a sample.

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from training.data.files.row_reader import RowReader

# In fewer rows a measured whole number may well differ everywhere.
MIN_ROWS_OF_ID = 20
MAX_SHOWN = 3


def warn_about_ids(reader: RowReader, table: pa.Table) -> list[str]:
    """Warn of columns that look like ids: texts or whole numbers, another one in every sampled training row."""
    return [
        f"column {column.name!r} has a different value in every row, as an id has; if it is one, name it in "
        "data.exclude"
        for column in reader.inputs
        if len(table) >= MIN_ROWS_OF_ID
        and (column.kind == "category" or (column.kind == "number" and column.stored_type == "int64"))
        and pc.count_distinct(table[column.name], mode="all").as_py() == len(table)
    ]


def describe_unseen(split: str, table: pa.Table, unseen: Mapping[str, NDArray[np.bool_]]) -> str:
    """Say how many rows of a split are left out for a category that no training row has, and which.

    Args:
        split: validation or test.
        table: its rows.
        unseen: by column, which rows, bool (N,).
    """
    columns = []
    for name, is_unseen in unseen.items():
        if is_unseen.any():
            values = pc.unique(table[name].filter(pa.array(is_unseen))).to_pylist()
            more = ", ..." if len(values) > MAX_SHOWN else ""
            columns.append(f"{name} {', '.join(map(repr, sorted(values)[:MAX_SHOWN]))}{more}")
    count = int(np.logical_or.reduce(list(unseen.values())).sum())
    return (
        f"{count} of {len(table)} {split} rows are left out of the scores, since they have a category that no training "
        f"row has and that serving would refuse ({'; '.join(columns)})"
    )
