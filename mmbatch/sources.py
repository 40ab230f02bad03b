"""Raw catalog files: finds them, checks their headers, and reads them in parts that fit in memory.

CSV, TSV, Parquet, HDF5 and JSON Lines, local or on an object store. `plan_units` cuts files into units; `read_unit`
reads one of them, in any process, and tells for every row that it cannot use why.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from itertools import takewhile

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import source_csv, source_hdf5, source_jsonl, source_parquet
from mmbatch.errors import InputError
from mmbatch.held_images import HeldImages
from mmbatch.image_access import ImageAccess
from mmbatch.source_checks import check_rows
from mmbatch.source_files import each_file, fingerprint_files, format_of, list_files, newest_change
from mmbatch.source_images import ImageReader
from mmbatch.source_types import REJECTS, Checked, Columns, Header, RawBatch, Unit
from mmbatch.source_vectors import first_width, fixed_width
from mmbatch.storage import filesystem_of, is_local

__all__ = [
    "REJECTS",
    "Checked",
    "Columns",
    "Unit",
    "check_kind",
    "fingerprint_files",
    "list_files",
    "newest_change",
    "plan_units",
    "read_unit",
    "source_folder",
]


_HEAD_ROWS = 100  # read at a time, to find the first image vector


def plan_units(files: Sequence[str], columns: Columns) -> list[Unit]:
    """The parts to read: each row group (Parquet), run of rows (HDF5), or text file; those without rows are left out.

    Only headers are read, and where the files' types do not say how wide image vectors are, the rows up to the first
    usable one. Raises `InputError` for columns that cannot make a catalog, a file that cannot be read or
    lacks a named column, and when no file has a row, unless the source is a feed, in which nothing need have happened.
    """
    _check_columns(columns)
    headers = each_file(partial(_read_header, columns=columns), files)
    parts: list[tuple[str, int | None, int | None]] = []
    for file, header in zip(files, headers, strict=True):
        if header.parts is not None:
            parts += [(file, part, rows) for part, rows in enumerate(header.parts) if rows]
        elif header.has_rows:
            parts.append((file, None, None))
    if not parts and columns.operation is None:
        raise InputError(f"{', '.join(files[:3])}: no rows in {len(files)} file(s), only headers")
    units = [Unit(file, part, index, rows) for index, (file, part, rows) in enumerate(parts)]
    if columns.image_vector is None:
        return units
    width = _fixed_width(files, headers, columns.image_vector) or _first_width(units, columns)
    return [replace(unit, vector_width=width) for unit in units]


def check_kind(columns: Columns, *, snapshot: bool) -> None:
    """Raise `InputError` for a source that is said to be both: a snapshot, which names all products, and a feed."""
    if snapshot and columns.operation is not None:
        raise InputError(
            f"--snapshot with --columns operation={columns.operation}: a feed of changes does not name the whole"
            " catalog; expected one of the two"
        )


def source_folder(source: str, files: Sequence[str]) -> str:
    """The folder that a source of these files is: itself, or the one of its file or pattern."""
    filesystem, path = filesystem_of(source)
    uri = (path if is_local(source) else str(filesystem.unstrip_protocol(path))).rstrip("/")
    if uri in files:
        return uri.rpartition("/")[0]
    if all(file.startswith(f"{uri}/") for file in files):
        return uri
    return "/".join(takewhile(lambda part: not set("*?[") & set(part), uri.split("/")))


def read_unit(
    unit: Unit,
    columns: Columns,
    *,
    access: ImageAccess | None = None,
    batch_rows: int = 1000,
    positions: pa.Array | None = None,
    isolate: bool = False,
    held: HeldImages | None = None,
) -> Iterator[Checked]:
    """Checked rows of one unit, at most `batch_rows` in a batch and fewer where images are large.

    `access` says where images may be read from, beside the folder of the file itself.
    `positions`, int64, are the only rows to check, and whose images are fetched; None: all.
    `isolate` finds images that end the process which decodes them, at the price of decoding twice.
    `held` are the web images that the catalog has and that are not downloaded again.
    Positions count from 0 the rows of a Parquet or HDF5 file, the data rows of a CSV file and the lines of a JSON Lines
    file.
    Raises `InputError` when the file itself breaks off or cannot be split into rows.
    """
    folder = unit.file.rpartition("/")[0]
    with ImageReader((access or ImageAccess()).beside(folder), folder=folder, isolate=isolate, held=held) as reader:
        for batch in _read_raw(unit, columns, batch_rows):
            raw = batch if positions is None else _only(batch, positions)
            for start in range(0, max(raw.table.num_rows, 1), batch_rows):
                part = RawBatch(
                    raw.table.slice(start, batch_rows),
                    raw.positions.slice(start, batch_rows),
                    raw.rejects if start == 0 else [],
                )
                yield from check_rows(part, columns, reader=reader, vector_width=unit.vector_width)


def _only(raw: RawBatch, positions: pa.Array) -> RawBatch:
    wanted = pc.is_in(raw.positions, value_set=positions)
    at = set(positions.to_pylist()) if raw.rejects else set()
    return RawBatch(
        raw.table.filter(wanted), raw.positions.filter(wanted), [bad for bad in raw.rejects if bad.position in at]
    )


def _read_raw(unit: Unit, columns: Columns, batch_rows: int) -> Iterator[RawBatch]:
    kind = format_of(unit.file)
    if unit.part is not None and kind == "hdf5":
        return source_hdf5.read_batches(unit.file, unit.part, columns)
    if unit.part is not None:
        return source_parquet.read_batches(unit.file, unit.part, columns, batch_rows=batch_rows)
    if kind == "jsonl":
        return source_jsonl.read_batches(unit.file, columns, batch_rows=batch_rows)
    return source_csv.read_batches(unit.file, columns)


def _check_columns(columns: Columns) -> None:
    image, vector = columns.image, columns.image_vector
    if columns.title is None and columns.description is None and image is None and vector is None:
        raise InputError("columns: none of title, description, image and image_vector is named; expected at least one")
    if image is not None and vector is not None:
        raise InputError(f"columns: image {image!r} and image_vector {vector!r} are both named; expected one of them")
    if vector is not None and vector in (columns.id, columns.title, columns.description, *columns.label):
        raise InputError(f"columns: image_vector {vector!r} has another role too; expected a column of its own")
    if columns.label_separator is not None and (not columns.label_separator or len(columns.label) != 1):
        raise InputError(
            f"columns: label_separator {columns.label_separator!r} with label columns {columns.label}; expected a"
            " separator that is not empty and exactly one label column"
        )


def _fixed_width(files: Sequence[str], headers: Sequence[Header], name: str) -> int | None:
    """Numbers in each image vector, where the type of a file's column says it; `InputError` when files disagree."""
    found = {file: fixed_width(header.columns.get(name)) for file, header in zip(files, headers, strict=True)}
    widths = {width: file for file, width in found.items() if width is not None}
    if len(widths) > 1:
        listed = ", ".join(f"{width:,} in {file}" for width, file in sorted(widths.items()))
        raise InputError(f"column {name!r} holds vectors of different widths: {listed}; expected the same everywhere")
    return next(iter(widths), None)


def _first_width(units: Sequence[Unit], columns: Columns) -> int | None:
    """Numbers in the first usable image vector of these parts; None: there is none."""
    only = Columns(id=columns.id, image_vector=columns.image_vector)
    batches = (batch for unit in units for batch in _read_raw(unit, only, _HEAD_ROWS))
    found = (first_width(part) for batch in batches for part in batch.table[columns.image_vector].chunks)
    return next((width for width in found if width is not None), None)


def _read_header(file: str, *, columns: Columns) -> Header:
    """The file's header, which has every named column."""
    match format_of(file):
        case "parquet":
            header = source_parquet.read_header(file, columns)
        case "hdf5":
            header = source_hdf5.read_header(file, columns)
        case "jsonl":
            header = source_jsonl.read_header(file)
        case _:
            header = source_csv.read_header(file, columns)
    for name in columns.names():
        if name not in header.columns and (header.columns or header.has_rows):
            raise InputError(f"{file}: no column {name!r}{_advice(name, header)}")
    return header


def _advice(name: str, header: Header) -> str:
    if header.hint:
        return f"; {header.hint}"
    names = list(header.columns)
    close = get_close_matches(name.lower(), [other.lower() for other in names], n=1, cutoff=0.6)
    guess = next((other for other in names if [other.lower()] == close), None)
    listed = ", ".join(repr(other[:40]) for other in names[:30]) + (", ..." if len(names) > 30 else "")
    return (f", did you mean {guess!r}?" if guess else ";") + f" it has {listed}"
