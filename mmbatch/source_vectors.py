"""Image vectors of a raw batch: a column of lists of numbers, checked as a whole and kept as `.npy` files.

Shapes: R rows, V of them with a list, U of them with a list of the right width, W numbers in a vector.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from mmbatch.image_vectors import DTYPE, to_npy
from mmbatch.images import ImageError
from mmbatch.source_images import Loaded
from mmbatch.source_text import is_list

WIDTH = "image_vector_width"
"""Reason code of a vector with more or fewer numbers than the others of its source."""

NOT_FINITE = "image_vector_not_finite"
"""Reason code of a vector that cannot be computed with."""


def is_vector(kind: pa.DataType) -> bool:
    """Whether a Parquet column of this type can hold vectors: lists of float16, float32 or float64, not of none."""
    if types.is_null(kind):
        return True
    none = types.is_fixed_size_list(kind) and kind.list_size == 0
    return is_list(kind) and types.is_floating(kind.value_type) and not none


def fixed_width(kind: pa.DataType | None) -> int | None:
    """Numbers in each vector, where the type says it."""
    return int(kind.list_size) if kind is not None and types.is_fixed_size_list(kind) else None


def first_width(column: pa.Array) -> int | None:
    """Numbers in the first vector whose numbers are all usable; None: there is no such vector."""
    lists = _lists(column).drop_null()
    for row in np.flatnonzero(pc.list_value_length(lists)).tolist():
        one = lists.slice(row, 1)
        width = len(one.flatten())
        if _is_finite(_numbers(one).reshape(1, width)).all():
            return width
    return None


def load_vectors(column: pa.Array, width: int | None) -> Loaded:
    """The vectors of `[R]` rows as `.npy` files (`Loaded.images`); a null is no image, and errors are by row.

    A vector has `width` numbers, or, where that is None, as many as the first usable one of these rows. Each number,
    and the sum of their squares, is a finite float32: so a network's normalisation of them is finite as well.
    """
    lists = _lists(column)
    present = np.flatnonzero(lists.is_valid())
    lengths = np.asarray(pc.list_value_length(lists).drop_null(), np.int64)
    if width is None:
        width = first_width(lists) or int(lengths.max(initial=0))  # where none is usable, any one is expected
    fits = (lengths == width) & (lengths > 0)
    numbers = _numbers(lists)
    vectors_UW = (numbers if fits.all() else numbers[np.repeat(fits, lengths)]).reshape(-1, max(width, 1))
    finite = _is_finite(vectors_UW)
    errors = {
        row: ImageError(WIDTH, f"{found:,} numbers, expected {width:,}" if width else "an empty list")
        for row, found in zip(present[~fits].tolist(), lengths[~fits].tolist(), strict=True)
    }
    bad = zip(present[fits][~finite].tolist(), vectors_UW[~finite], strict=True)
    errors |= {row: ImageError(NOT_FINITE, _what(vector)) for row, vector in bad}
    files = to_npy(vectors_UW if finite.all() else vectors_UW[finite])
    images = _at(present[fits][finite], files, len(lists))
    nothing = pa.nulls(len(lists), pa.string())
    return Loaded(images, nothing, nothing, dict(sorted(errors.items())))


def _at(rows: np.ndarray, files: pa.Array, count: int) -> pa.Array:
    """`files` at these rows, ascending, of `count`; null at the others."""
    if len(rows) == count:
        return files
    places = np.zeros(count, np.int64)
    places[rows] = np.arange(len(rows))
    return files.take(pa.array(places, mask=~np.isin(np.arange(count), rows)))


def _lists(column: pa.Array) -> pa.Array:
    return column.cast(pa.list_(pa.float32())) if types.is_null(column.type) else column


def _numbers(lists: pa.Array) -> np.ndarray:
    """The numbers of all lists, one after the other, in float32; NaN for null, infinite for what is too large."""
    with np.errstate(over="ignore"):
        found: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False).astype(DTYPE, copy=False)
    return found


def _is_finite(vectors_UW: np.ndarray) -> np.ndarray:
    """bool `[U]`: numbers and the sum of their squares are finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.isfinite(np.einsum("uw,uw->u", vectors_UW, vectors_UW)))


def _what(vector_W: np.ndarray) -> str:
    count = int((~np.isfinite(vector_W)).sum())
    if count:
        return f"{count:,} of {len(vector_W):,} numbers are null, NaN or infinite as float32"
    return f"its numbers are too large, up to {np.abs(vector_W).max():.3g}: their squares overflow float32"
