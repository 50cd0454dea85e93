"""Hashing: 64 bits for each row's content, by which rows are split, sampled and fingerprinted.

Arrow has no hash among its compute kernels. Changing a function here moves rows between splits.
"""
# Shapes: N rows of a batch.

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from training.data.files.columns import ColumnKind, is_text_type

Hashes = NDArray[np.uint64]


def hash_values(kind: ColumnKind, values: Any) -> Hashes:
    """Hash each value of a column; surrounding whitespace of a text is ignored."""
    if kind == "number":
        return np.asarray(values.to_numpy()).view(np.uint32).astype(np.uint64)
    if kind in ("category", "label"):
        encoded = values.combine_chunks().dictionary_encode()
        dictionary = np.array([_hash_bytes(text.encode()) for text in encoded.dictionary.to_pylist()] + [0], np.uint64)
        hashes: Hashes = dictionary[pc.fill_null(encoded.indices, len(dictionary) - 1).to_numpy()]
        return hashes
    normalize = bytes.strip if kind == "text" else bytes
    return np.array([_hash_bytes(normalize(value.as_buffer().to_pybytes())) for value in values], np.uint64)


def combine_hashes(columns: list[Hashes]) -> Hashes:
    """Combine columns by multilinear hashing (Lemire, Kaser, 2014): sum of c_i x_i modulo 2^64, then mixed."""
    total = np.zeros(len(columns[0]), np.uint64)
    for coefficient, column in zip(_coefficients(len(columns)), columns, strict=True):
        total += coefficient * column
    hashes: Hashes = mix_bits(total)
    return hashes


def mix_bits(x: Any) -> Any:
    """The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): every input bit affects every output bit."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def sample_by_hash(table: pa.Table, hash_column: str, max_rows: int, max_bytes: int) -> pa.Table:
    """Keep the rows with the smallest hashes, within both limits: a sample that does not depend on the rows' order."""
    order = np.argsort(table[hash_column].to_numpy(), kind="stable")
    num_fitting = np.searchsorted(np.cumsum(_row_bytes(table)[order]), max_bytes, side="right")
    return table.take(pa.array(order[: min(max_rows, int(num_fitting))]))


def _hash_bytes(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


@lru_cache(maxsize=8)
def _coefficients(count: int) -> Hashes:
    """An odd number for each column."""
    coefficients: Hashes = mix_bits(np.arange(1, count + 1, dtype=np.uint64)) | np.uint64(1)
    return coefficients


def _row_bytes(table: pa.Table) -> NDArray[np.int64]:
    """Size of each row."""
    total = np.zeros(len(table), np.int64)
    for values in table.columns:
        if is_text_type(values.type):
            total += pc.fill_null(pc.binary_length(values), 0).to_numpy()
        else:
            total += values.type.bit_width // 8
    return total
