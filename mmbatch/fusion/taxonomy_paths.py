"""Label paths of products as Arrow columns."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

LabelPath = tuple[str, ...]
"""Names, root first."""

LabelPaths: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[Sequence[str]]
"""Label paths of N products: an Arrow list<string> column, or any sequence of sequences of names."""

Ints = npt.NDArray[np.int64]


def column_parts(paths: LabelPaths) -> list[pa.Array]:
    """Label paths as list<string> arrays, in order."""
    column = paths if isinstance(paths, pa.Array | pa.ChunkedArray) else pa.array(paths, pa.list_(pa.string()))
    column = column.cast(pa.list_(pa.string()))
    return list(column.chunks) if isinstance(column, pa.ChunkedArray) else [column]


def distinct_paths(column: pa.Array) -> tuple[list[LabelPath], Ints]:
    """Distinct paths of a column, null as an empty one, and which of them each row is, int64 `[N]`."""
    depths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    starts = np.cumsum(depths) - depths
    names = pc.dictionary_encode(column.flatten(), null_encoding="encode")
    name_codes = names.indices.to_numpy()
    group = np.zeros(len(column), np.int64)
    for level in range(depths.max(initial=0)):
        has = depths > level
        key = group * (len(names.dictionary) + 1)
        key[has] += name_codes[starts[has] + level] + 1
        group = pc.dictionary_encode(pa.array(key)).indices.to_numpy().astype(np.int64)
    first = np.zeros(group.max(initial=-1) + 1, np.int64)
    first[group[::-1]] = np.arange(len(group))[::-1]  # of the rows of a group, the last one written is the first
    return [tuple(path or ()) for path in column.take(pa.array(first)).to_pylist()], group
