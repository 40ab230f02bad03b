"""Checks the rows of a raw batch: clean columns of `schema.SOURCE`, and a reason for everything that is not usable."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.source_images import ImageReader, Loaded, load_images, split_images
from mmbatch.source_operations import BAD_OPERATION, Operations, check_operations, upserts
from mmbatch.source_text import Labels, Text, check_labels, check_text
from mmbatch.source_types import Checked, Columns, RawBatch, Reject, rejects_table
from mmbatch.source_vectors import load_vectors


class _Cleaned(NamedTuple):
    """The rows of a raw batch that have an id and readable text: `[K]` of `[N]`."""

    rows: pa.RecordBatch
    """`schema.SOURCE` without its images, and of each image `inline` (binary, or a vector) and `reference` (string). Of
    a product that is deleted, the id alone."""
    bad_labels: dict[int, str]
    """Row -> what is wrong with its label."""
    rejects: list[Reject]
    """The other rows of the raw batch, but those that are skipped."""
    skipped: int


def check_rows(
    raw: RawBatch, columns: Columns, *, reader: ImageReader, vector_width: int | None = None
) -> Iterator[Checked]:
    """Check a batch, whose images `reader` fetches; `vector_width` is `Unit.vector_width`.

    A row without an id, with text that is not UTF-8, with a bad operation, or without any of title, description and
    usable image is rejected whole; one that deletes its product needs an id only. A bad image or label is rejected
    alone: the row is kept without it.
    """
    cleaned = _clean(raw, columns)
    rejects, skipped, start = raw.rejects + cleaned.rejects, cleaned.skipped, 0
    inline, vectors = cleaned.rows["inline"], columns.image_vector is not None
    for loaded in [load_vectors(inline, vector_width)] if vectors else load_images(cleaned.rows, reader=reader):
        stop = start + len(loaded.images)
        bad_labels = {row - start: what for row, what in cleaned.bad_labels.items() if start <= row < stop}
        rows, unusable = _finish(cleaned.rows.slice(start, stop - start), loaded, bad_labels)
        yield Checked(rows, rejects_table(sorted(rejects + unusable, key=lambda reject: reject.position)), skipped)
        rejects, skipped, start = [], 0, stop


def _clean(raw: RawBatch, columns: Columns) -> _Cleaned:
    """Every column but the images' content, checked; rows that are rejected whole or skipped left out."""
    operations = _operations(raw, columns)
    ids, title, description = (_text(raw, name) for name in (columns.id, columns.title, columns.description))
    labels = _labels(raw, columns)
    inline, reference = _image(raw, columns)
    described = ~operations.deleted
    undecodable = [
        (columns.operation, operations.undecodable),
        (columns.id, ids.undecodable),
        (columns.title, title.undecodable & described),
        (columns.description, description.undecodable & described),
        (", ".join(columns.label), labels.undecodable & described),
        (columns.image, reference.undecodable & described),
    ]
    whole = _whole(undecodable, columns, ids.values, operations)
    keep = ~operations.skipped
    keep[list(whole)] = False
    rejects = [
        Reject(raw.positions[row].as_py(), ids.values[row].as_py(), None, reason, message)
        for row, (reason, message) in sorted(whole.items())
        if not operations.skipped[row]
    ]
    content = {
        "title": title.values,
        "description": description.values,
        "label": labels.paths,
        "inline": inline,
        "reference": reference.values,
    }
    if operations.deleted.any():
        content = {name: _only_where(described, values) for name, values in content.items()}
    rows = pa.record_batch(
        {"product_id": ids.values, "deleted": pa.array(operations.deleted), "position": raw.positions} | content
    )
    place = np.cumsum(keep) - 1  # of each row among those that are kept
    bad_labels = {int(place[row]): what for row, what in labels.bad.items() if keep[row] and described[row]}
    return _Cleaned(rows.filter(pa.array(keep)), bad_labels, rejects, int(operations.skipped.sum()))


def _whole(
    undecodable: Sequence[tuple[str | None, np.ndarray]], columns: Columns, ids: pa.Array, operations: Operations
) -> dict[int, tuple[str, str]]:
    """Row -> reason and message, of the rows that are rejected whole before their images are looked at."""
    found = {row: (BAD_OPERATION, what) for row, what in operations.bad.items()}
    missing = ids.is_null().to_numpy(zero_copy_only=False)
    found |= dict.fromkeys(np.flatnonzero(missing).tolist(), ("no_id", f"column {columns.id!r} is empty"))
    for row in np.flatnonzero(np.logical_or.reduce([mask for _, mask in undecodable])).tolist():
        names = ", ".join(repr(name) for name, mask in undecodable if mask[row])
        found[row] = ("undecodable_text", f"not UTF-8: column {names}")
    return found


def _only_where(wanted: np.ndarray, values: pa.Array) -> pa.Array:
    """The values of some rows, null at the others; of any type."""
    return values.take(pa.array(np.arange(len(values)), mask=~wanted))


def _operations(raw: RawBatch, columns: Columns) -> Operations:
    if columns.operation is None:
        return upserts(raw.table.num_rows)
    return check_operations(_column(raw, columns.operation))


def _text(raw: RawBatch, name: str | None) -> Text:
    if name is None:
        return _no_text(raw)
    return check_text(_column(raw, name))


def _labels(raw: RawBatch, columns: Columns) -> Labels:
    if not columns.label:
        count = raw.table.num_rows
        return Labels(pa.nulls(count, pa.list_(pa.string())), {}, np.zeros(count, dtype=bool))
    stored = [_column(raw, name) for name in columns.label]
    return check_labels(stored, separator=columns.label_separator, nothing=columns.no_label)


def _image(raw: RawBatch, columns: Columns) -> tuple[pa.Array, Text]:
    if columns.image_vector is not None:
        return _column(raw, columns.image_vector), _no_text(raw)
    if columns.image is None:
        return pa.nulls(raw.table.num_rows, pa.binary()), _no_text(raw)
    return split_images(_column(raw, columns.image))


def _no_text(raw: RawBatch) -> Text:
    return Text(pa.nulls(raw.table.num_rows, pa.string()), np.zeros(raw.table.num_rows, dtype=bool))


def _column(raw: RawBatch, name: str) -> pa.Array:
    column = raw.table[name].combine_chunks()
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)


def _finish(rows: pa.RecordBatch, loaded: Loaded, bad_labels: dict[int, str]) -> tuple[pa.Table, list[Reject]]:
    """Rows as `schema.SOURCE` and what of them was not usable."""
    parts = (rows["title"], rows["description"], loaded.images, loaded.hashes, pc.if_else(rows["deleted"], True, None))
    keep = np.logical_or.reduce([part.is_valid().to_numpy(zero_copy_only=False) for part in parts])
    entries: list[tuple[int, str | None, str, str]] = []
    for row in np.flatnonzero(~keep).tolist():
        error = loaded.errors.get(row)
        why = f"its image cannot be used ({error.reason}): {error}" if error else "no image"
        entries.append((row, None, "no_content", f"no title, no description, {why}"))
    entries += [(row, "image", error.reason, str(error)) for row, error in loaded.errors.items() if keep[row]]
    entries += [(row, "label", "bad_label", what) for row, what in bad_labels.items() if keep[row]]
    rejects = [
        Reject(rows["position"][row].as_py(), rows["product_id"][row].as_py(), modality, reason, message)
        for row, modality, reason, message in entries
    ]
    columns = {name: rows[name] for name in rows.schema.names} | {
        "image": loaded.images,
        "image_uri": loaded.uris,
        "image_hash": loaded.hashes,
    }
    table = pa.table([columns[name] for name in schema.SOURCE.names], schema=schema.SOURCE)
    return table.filter(pa.array(keep)), rejects
