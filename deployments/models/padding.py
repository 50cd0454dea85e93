"""Padding: rows with a time axis as arrays of one length, and requests of them as chunks of similar length.

Request walk: batching.py -> [padding.py] -> chunks.py
"""
# Shapes: B rows of one request, N rows of a pass, T time steps (or tokens) of the longest row, T_i of row i.

from collections.abc import Iterator, Sequence

import numpy as np

from deployments.models.chunk_queue import exceeds_padding_share
from deployments.models.chunks import Chunk, PendingRequest
from deployments.protocols.arrays import Array


def split_by_length(
    request: PendingRequest, rows: list[Array], pass_rows: int, padding_value: float | None
) -> Iterator[Chunk]:
    """Sort rows of unequal length into chunks of similar length, of pass_rows at most."""
    lengths = np.array([len(row) for row in rows])
    order = lengths.argsort(kind="stable")[::-1]
    start = time_steps = 0
    for end, row in enumerate(order):
        longest, count = lengths[order[start]], end - start + 1
        if count > pass_rows or exceeds_padding_share(time_steps + lengths[row], count * longest):
            yield _make_chunk(request, rows, order[start:end], lengths, padding_value)
            start, time_steps = end, 0
        time_steps += lengths[row]
    yield _make_chunk(request, rows, order[start:], lengths, padding_value)


def _make_chunk(
    request: PendingRequest, rows: list[Array], row_index: Array, lengths: Array, padding_value: float | None
) -> Chunk:
    x = pad_rows([rows[row] for row in row_index], padding_value)
    if len(row_index) == len(rows) == 1:
        return Chunk(request, x, slice(0, 1))
    return Chunk(request, x, row_index, lengths[row_index])


def pad_rows(rows: Sequence[Array], padding_value: float | None) -> Array:
    """Stack rows (T_i, ...) to (N, T, ...)."""
    x = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), padding_value, rows[0].dtype)
    for padded, row in zip(x, rows, strict=True):
        padded[: len(row)] = row
    return x


def pad_time_axis(x: Array, padding_value: float | None) -> Array:
    """Pad to two time steps, the minimum of an exported net; without padding_value there is no time axis."""
    if padding_value is None or x.shape[1] >= 2:
        return x
    return np.pad(x, ((0, 0), (0, 1), *((0, 0),) * (x.ndim - 2)), constant_values=padding_value)
