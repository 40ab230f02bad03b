"""Checks the rows of a raw batch: clean columns of `schema.SOURCE`, and a reason for everything that is not usable."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mmbatch import schema
from mmbatch.source_images import ImageReader, Loaded, load_images, split_images
from mmbatch.source_text import Labels, Text, check_labels, check_text
from mmbatch.source_types import Checked, Columns, RawBatch, Reject, rejects_table
from mmbatch.source_vectors import load_vectors


class _Cleaned(NamedTuple):
    """The rows of a raw batch that have an id and readable text: `[K]` of `[N]`."""

    rows: pa.RecordBatch
    """`schema.SOURCE` without its images, and of each image `inline` (binary, or a vector) and `reference` (string)."""
    bad_labels: dict[int, str]
    """Row -> what is wrong with its label."""
    rejects: list[Reject]
    """The other rows of the raw batch."""


def check_rows(
    raw: RawBatch, columns: Columns, *, reader: ImageReader, vector_width: int | None = None
) -> Iterator[Checked]:
    """Check a batch, whose images `reader` fetches; `vector_width` is `Unit.vector_width`.

    A row without an id, with text that is not UTF-8, or without any of title, description and usable image is
    rejected whole. A bad image or label is rejected alone: the row is kept without it.
    """
    cleaned = _clean(raw, columns)
    rejects, start = raw.rejects + cleaned.rejects, 0
    inline, references = cleaned.rows["inline"], cleaned.rows["reference"].to_pylist()
    vectors = columns.image_vector is not None
    for loaded in [load_vectors(inline, vector_width)] if vectors else load_images(inline, references, reader=reader):
        stop = start + len(loaded.images)
        bad_labels = {row - start: what for row, what in cleaned.bad_labels.items() if start <= row < stop}
        rows, unusable = _finish(cleaned.rows.slice(start, stop - start), loaded, bad_labels)
        yield Checked(rows, rejects_table(sorted(rejects + unusable, key=lambda reject: reject.position)))
        rejects, start = [], stop


def _clean(raw: RawBatch, columns: Columns) -> _Cleaned:
    """Every column but the images' content, checked; rows without an id or with unreadable text left out."""
    ids, title, description = (_text(raw, name) for name in (columns.id, columns.title, columns.description))
    labels = _labels(raw, columns)
    inline, reference = _image(raw, columns)
    undecodable = [
        (columns.id, ids.undecodable),
        (columns.title, title.undecodable),
        (columns.description, description.undecodable),
        (", ".join(columns.label), labels.undecodable),
        (columns.image, reference.undecodable),
    ]
    unreadable = np.logical_or.reduce([mask for _, mask in undecodable])
    keep = ~unreadable & ids.values.is_valid().to_numpy(zero_copy_only=False)
    rejects = []
    for row in np.flatnonzero(~keep).tolist():
        reason, message = "no_id", f"column {columns.id!r} is empty"
        if unreadable[row]:
            reason = "undecodable_text"
            message = f"not UTF-8: column {', '.join(repr(name) for name, mask in undecodable if mask[row])}"
        rejects.append(Reject(raw.positions[row].as_py(), ids.values[row].as_py(), None, reason, message))
    rows = pa.record_batch(
        {
            "product_id": ids.values,
            "title": title.values,
            "description": description.values,
            "label": labels.paths,
            "position": raw.positions,
            "inline": inline,
            "reference": reference.values,
        }
    )
    place = np.cumsum(keep) - 1  # of each row among those that are kept
    bad_labels = {int(place[row]): what for row, what in labels.bad.items() if keep[row]}
    return _Cleaned(rows.filter(pa.array(keep)), bad_labels, rejects)


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
    parts = (rows["title"], rows["description"], loaded.images)
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
    columns = {name: rows[name] for name in rows.schema.names} | {"image": loaded.images, "image_uri": loaded.uris}
    table = pa.table([columns[name] for name in schema.SOURCE.names], schema=schema.SOURCE)
    return table.filter(pa.array(keep)), rejects
