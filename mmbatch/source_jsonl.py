"""JSON Lines files as raw batches: one object per line, read line by line in bounded memory."""

import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa

from mmbatch.errors import InputError
from mmbatch.source_files import open_source
from mmbatch.source_text import UNCHECKED
from mmbatch.source_types import Columns, Header, RawBatch, Reject

MAX_LINE_BYTES = 16 << 20
"""A longer line is rejected without being held in memory."""

_VECTOR = pa.list_(pa.float64())
_BUFFER_BYTES = 1 << 20
_HEAD_LINES = 1000


class _BadLineError(Exception):
    """A line that is no usable row: reason code and message."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def read_header(uri: str) -> Header:
    """Keys of the objects in the first 1,000 lines, as a row may leave out what it has no value for."""
    keys: dict[str, None] = {}
    lines, error = 0, None
    with _open(uri) as file:
        for _, line in islice(_lines(file), _HEAD_LINES):
            lines += 1
            try:
                keys |= dict.fromkeys(_parse(line))
            except _BadLineError as bad:
                error = error or bad
    if error and not keys:
        raise InputError(f"{uri}: no JSON object in the first {lines} lines; the first one: {error}")
    return Header(columns=dict.fromkeys(keys), parts=None, has_rows=lines > 0)


def read_batches(uri: str, columns: Columns, *, batch_rows: int) -> Iterator[RawBatch]:
    """Rows of a JSON Lines file; a position is the line's number, blank lines counted."""
    with _open(uri) as file:
        lines = _lines(file)
        while some := list(islice(lines, batch_rows)):
            yield _batch(some, columns)


def _batch(lines: list[tuple[int, bytes]], columns: Columns) -> RawBatch:
    names = columns.names()
    values: list[list[bytes | np.ndarray | None]] = []
    positions, rejects = [], []
    for position, line in lines:
        try:
            row = _parse(line)
            values.append([_value(row.get(name), name, columns) for name in names])
            positions.append(position)
        except _BadLineError as error:
            rejects.append(Reject(position, None, None, error.reason, str(error)))
    stored = zip(*values, strict=True) if values else ([] for _ in names)
    arrays = [
        _array(column, is_vector=name == columns.image_vector) for name, column in zip(names, stored, strict=True)
    ]
    return RawBatch(pa.table(arrays, names=names), pa.array(positions, pa.int64()), rejects)


@contextmanager
def _open(uri: str) -> Iterator[IO[bytes]]:
    """A file whose lines can be read up to a length: fsspec's own remote files cannot."""
    with open_source(uri) as file, io.BufferedReader(cast("io.RawIOBase", file), _BUFFER_BYTES) as buffered:
        yield cast("IO[bytes]", buffered)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, each with its number; of a line that is too long, its first part."""
    position = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        if not line.isspace():
            yield position, line
        position += 1


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise _BadLineError("malformed_row", f"the line is longer than {MAX_LINE_BYTES >> 20} MiB")
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _BadLineError("undecodable_text", f"the line is not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise _BadLineError("malformed_row", f"the line is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise _BadLineError("malformed_row", f"a JSON {type(row).__name__}, expected an object: {line[:80]!r}")
    return row


def _array(values: Sequence[Any], *, is_vector: bool) -> pa.Array:
    return pa.array(values, _VECTOR) if is_vector else pa.array(values, pa.binary()).cast(options=UNCHECKED)


def _value(value: Any, name: str, columns: Columns) -> bytes | np.ndarray | None:
    """A value as its column holds it: text, or the numbers of an image vector."""
    return _vector(value, name) if name == columns.image_vector else _text(value, name, columns)


def _vector(value: Any, name: str) -> np.ndarray | None:
    """A list of numbers as float64, NaN where one is null."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise _BadLineError("malformed_row", f"column {name!r} holds a JSON {type(value).__name__}, expected a list")
    try:
        numbers: np.ndarray = pa.array(value, pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise _BadLineError("malformed_row", f"column {name!r} holds a list of other than numbers: {error}") from error
    return numbers


def _text(value: Any, name: str, columns: Columns) -> bytes | None:
    """A value as text; a list, where one may stand, stays JSON. Lone surrogates make it invalid UTF-8, to be found."""
    if isinstance(value, list) and (name == columns.image or columns.label == (name,)):
        value = json.dumps([None if item is None else _scalar(item, name) for item in value])
    elif isinstance(value, dict) and name == columns.image:
        value = value.get("path")
    return None if value is None else _scalar(value, name).encode("utf-8", "surrogatepass")


def _scalar(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    raise _BadLineError("malformed_row", f"column {name!r} holds a JSON {type(value).__name__}, expected text")
