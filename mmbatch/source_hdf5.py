"""HDF5 files as raw batches: one group of equally long datasets, as the Kakao arena's `train.chunk.01` holds products.

Text is byte strings, fixed or variable in length; numbers are integers or floats; an image vector is a row of a dataset
with two axes. A file is cut into parts of about `PART_ROWS` rows, so that workers share a large one, and only the rows
and columns that are asked for are read.

h5py calls a remote file's `readinto` while it holds a lock of its own, which freeing any of its objects takes too. Here
they are in no reference cycle, so that no other thread's garbage collection can free one and wait for that lock.
"""

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import IO, cast

import h5py
import numpy as np
import pyarrow as pa

from mmbatch.errors import InputError
from mmbatch.source_columns import check_types
from mmbatch.source_files import open_source, reading
from mmbatch.source_text import UNCHECKED
from mmbatch.source_types import Columns, Header, RawBatch
from mmbatch.storage import filesystem_of, is_local

PART_ROWS = 10_000
"""Rows aimed at in one part: 80 MB of vectors of 2,048 float32."""

BATCH_BYTES = 128 << 20
"""Bytes of the named columns read at a time, at most, where their text is of fixed length."""

_BUFFER_BYTES = 1 << 20  # of a remote file, read at a time where less is asked for: HDF5 asks for 500 bytes and jumps

_Datasets = Mapping[str, h5py.Dataset]
"""The columns of a file by name, all of the same length."""


def read_header(uri: str, columns: Columns) -> Header:
    """Columns, types and parts of an HDF5 file; `InputError` for a column whose type cannot hold its content."""
    with _open(uri) as datasets:
        found = {name: _type_of(dataset) for name, dataset in datasets.items()}
        count, part = _length(datasets), _part_rows(datasets)
    check_types(uri, found, columns)
    parts = [min(part, count - start) for start in range(0, count, part)]
    return Header(columns=dict(found), parts=parts, has_rows=count > 0)


def read_batches(uri: str, part: int, columns: Columns) -> Iterator[RawBatch]:
    """Rows of one part, at most `BATCH_BYTES` at a time; a position counts the rows of the whole file."""
    with _open(uri) as datasets:
        wanted = {name: datasets[name] for name in columns.names()}
        rows = _part_rows(datasets)
        end = min((part + 1) * rows, _length(datasets))
        step = max(1, BATCH_BYTES // sum(map(_row_bytes, wanted.values())))
        for start in range(part * rows, end, step):
            stop = min(start + step, end)
            table = pa.table({name: _read(uri, name, wanted[name], start, stop) for name in wanted})
            yield RawBatch(table, pa.array(range(start, stop), pa.int64()), [])


@contextmanager
def _open(uri: str) -> Iterator[_Datasets]:
    """The datasets of a file; what HDF5 says of a damaged one becomes `InputError`."""
    with ExitStack() as stack:
        source: str | IO[bytes] = filesystem_of(uri)[1]
        if not is_local(uri):
            raw = stack.enter_context(open_source(uri, cache="none"))
            source = stack.enter_context(io.BufferedReader(cast("io.RawIOBase", raw), _BUFFER_BYTES))
        stack.enter_context(_damage(uri))
        file = stack.enter_context(h5py.File(source, "r", locking=False))  # a read-only share may refuse locks
        yield _datasets(uri, file)


@contextmanager
def _damage(uri: str) -> Iterator[None]:
    try:
        with reading(uri):
            yield
    except (RuntimeError, KeyError, ValueError) as error:  # all of them come from h5py where a header is damaged
        raise InputError(f"{uri}: cannot be read: {' '.join(str(error).split())}") from error


def _datasets(uri: str, file: h5py.File) -> _Datasets:
    groups = _members(file, h5py.Group)
    if len(groups) != 1:
        listed = f" ({', '.join(map(repr, groups[:10]))})" if groups else ""
        raise InputError(f"{uri}: {len(groups)} groups{listed}; expected one, which holds a dataset for each column")
    group = file[groups[0]]
    found = {name: group[name] for name in _members(group, h5py.Dataset)}
    columns = {name: dataset for name, dataset in found.items() if dataset.shape}  # a single value is none
    lengths = {len(dataset): name for name, dataset in columns.items()}
    if len(lengths) != 1:
        listed = ", ".join(f"{length:,} rows in {name!r}" for length, name in sorted(lengths.items())) or "none"
        raise InputError(f"{uri}: group {groups[0]!r}: expected datasets of one length, found {listed}")
    for name, dataset in columns.items():
        if dataset.is_virtual or dataset.external:
            raise InputError(f"{uri}: dataset {name!r} has its content in other files; expected it in this one")
    return columns


def _members(group: h5py.Group, kind: type) -> list[str]:
    """Names of what a group itself holds; links, which may lead to other files, are not followed."""
    own = [name for name in group if isinstance(group.get(name, getlink=True), h5py.HardLink)]
    return [name for name in own if group.get(name, getclass=True) is kind]


def _length(datasets: _Datasets) -> int:
    return int(next(iter(datasets.values())).shape[0])


def _row_bytes(dataset: h5py.Dataset) -> int:
    return max(1, int(dataset.dtype.itemsize * math.prod(dataset.shape[1:])))


def _part_rows(datasets: _Datasets) -> int:
    """Rows of a part: whole storage chunks of the widest dataset, as a chunk is decompressed whole."""
    chunks = max(datasets.values(), key=_row_bytes).chunks
    rows = int(chunks[0]) if chunks else 1
    return min(rows * max(1, PART_ROWS // rows), 2 * PART_ROWS)


def _type_of(dataset: h5py.Dataset) -> pa.DataType:
    """Arrow type of a column's rows; an opaque one for what Arrow does not know."""
    if h5py.check_string_dtype(dataset.dtype):
        kind = pa.string()
    else:
        try:
            kind = pa.from_numpy_dtype(_native(dataset.dtype))
        except pa.ArrowNotImplementedError:
            kind = pa.opaque(pa.null(), str(dataset.dtype), "HDF5")
    for width in reversed(dataset.shape[1:]):
        kind = pa.list_(kind, width)
    return kind


def _native(kind: np.dtype) -> np.dtype:
    return kind.newbyteorder("=")


def _read(uri: str, name: str, dataset: h5py.Dataset, start: int, stop: int) -> pa.Array:
    """Rows `[start, stop)` of a column; text is not checked yet."""
    try:
        stored = dataset[start:stop]
    except OSError as error:
        what = " ".join(str(error).split())
        raise InputError(f"{uri}: cannot be read: column {name!r}, rows {start:,} to {stop - 1:,}: {what}") from error
    flat = stored.reshape(-1)
    if h5py.check_string_dtype(dataset.dtype):
        values = pa.array(flat, pa.binary()).cast(options=UNCHECKED)
    else:
        values = pa.array(flat.astype(_native(flat.dtype), copy=False))
    for width in reversed(dataset.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, width)
    return values
