"""Catalog: one row per product, with a content hash per modality, and the splits of the labelled ones."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mmbatch import schema
from mmbatch.schema import Modality, bucket_of
from mmbatch.sources import read_image
from mmbatch.tables import Table
from mmbatch.workspace import Workspace

HASH_COLUMNS: dict[Modality, str] = {"image": "image_hash", "text": "text_hash"}
"""The catalog's column that holds the content hash of each modality."""

STAGED = pa.schema(
    [
        *schema.SOURCE,
        ("text_hash", pa.string()),
        ("image_hash", pa.string()),
        ("source", pa.string()),
        ("unit", pa.int64()),
        ("bucket", pa.int32()),
    ]
)
"""A checked source row on its way into the catalog; `(unit, position)` orders the rows of one source."""


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The products of a workspace."""

    workspace: Workspace

    @cached_property
    def table(self) -> Table:
        """One row per product."""
        return self.workspace.table("catalog", schema=schema.CATALOG)

    @cached_property
    def images(self) -> Table:
        """Image files that came as bytes, by content."""
        return self.workspace.table("images", schema=schema.IMAGES)

    @cached_property
    def splits(self) -> Table:
        """Split of each labelled product."""
        return self.workspace.table("splits", schema=schema.SPLIT)

    def keys(self, buckets: Collection[int] | None = None) -> pa.Table:
        """`product_id`, `text_hash`, `image_hash`, `bucket` of every product: all that planning needs."""
        return self.table.read(["product_id", "text_hash", "image_hash", "bucket"], buckets=buckets)

    def labels(self, buckets: Collection[int] | None = None) -> pa.Table:
        """Labelled products: `product_id`, `category` (cut to the workspace's level), hashes, `split`, `bucket`.

        Rows are ordered by product id within a bucket; `split` is null where none has been drawn yet.
        """
        columns = ["product_id", "label", "text_hash", "image_hash", "bucket"]
        rows = self.table.read(columns, buckets=buckets, filters=ds.field("label").is_valid())
        rows = rows.set_column(1, "category", category_of(rows["label"], self.workspace.settings.level))
        drawn = self.splits.read(["product_id", "split"], buckets=buckets)
        found = pc.index_in(rows["product_id"], value_set=drawn["product_id"].combine_chunks())
        rows = rows.append_column("split", drawn["split"].combine_chunks().take(found.combine_chunks()))
        return rows.sort_by([("bucket", "ascending"), ("product_id", "ascending")])

    def content(self, modality: Modality, bucket: int, hashes: pa.Array) -> pa.Table:
        """The content behind hashes of one bucket, one row each, in the order of `hashes`.

        Text: `content_hash`, `title`, `description`. Image: `content_hash`, `image` (file bytes; null where the
        image no longer can be read from its URI or is another one now).
        """
        column = HASH_COLUMNS[modality]
        names = ["title", "description"] if modality == "text" else ["image_uri"]
        rows = self.table.read([column, *names], buckets=[bucket], filters=pc.field(column).isin(hashes))
        rows = rows.take(pc.index_in(hashes, value_set=rows[column].combine_chunks()))
        rows = rows.rename_columns(["content_hash", *names])
        return rows if modality == "text" else self._with_image_bytes(rows, bucket)

    def _with_image_bytes(self, rows: pa.Table, bucket: int) -> pa.Table:
        wanted = pc.field("image_hash").isin(rows["content_hash"].combine_chunks())
        stored = self.images.read(["image_hash", "image"], buckets=[bucket], filters=wanted)
        place = pc.index_in(rows["content_hash"], value_set=stored["image_hash"].combine_chunks()).to_pylist()
        images = [
            stored["image"][at].as_py() if at is not None else _fetch(uri, content_hash)
            for at, uri, content_hash in zip(
                place, rows["image_uri"].to_pylist(), rows["content_hash"].to_pylist(), strict=True
            )
        ]
        return pa.table({"content_hash": rows["content_hash"], "image": pa.array(images, pa.binary())})


def _fetch(uri: str | None, content_hash: str) -> bytes | None:
    try:
        image = None if uri is None else read_image(uri)
    except OSError:
        return None
    return image if image is not None and digest(image) == content_hash else None


def digest(content: bytes) -> str:
    """128-bit BLAKE2b in hex: the identity of a content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def category_of(label: pa.ChunkedArray, level: int) -> pa.ChunkedArray:
    """Category paths cut to `level` names and joined into one string; a shorter path is a category of its own."""
    return pc.binary_join(pc.list_slice(label, 0, level), schema.PATH_SEPARATOR)


def stage(rows: pa.Table, *, source: str, unit: int, buckets: int) -> pa.Table:
    """Checked source rows with hashes and bucket (`STAGED`): what a worker writes for the merge."""
    joined = pc.binary_join_element_wise(
        rows["title"], rows["description"], "\x1f", null_handling="replace", null_replacement="\x00"
    )
    missing = pc.and_(pc.is_null(rows["title"]), pc.is_null(rows["description"]))
    texts = [digest(text.encode()) for text in joined.to_pylist()]
    images = [None if image is None else digest(image) for image in rows["image"].to_pylist()]
    by_uri = pc.is_valid(rows["image_uri"])
    columns = {name: rows[name] for name in schema.SOURCE.names} | {
        "image": pc.if_else(by_uri, pa.scalar(None, pa.binary()), rows["image"]),
        "text_hash": pc.if_else(missing, pa.scalar(None, pa.string()), pa.array(texts, pa.string())),
        "image_hash": pa.array(images, pa.string()),
        "source": pa.repeat(source, rows.num_rows),
        "unit": pa.repeat(unit, rows.num_rows),
        "bucket": bucket_of(rows["product_id"], buckets),
    }
    return pa.table(columns, schema=STAGED)


class Merged(NamedTuple):
    """What one bucket becomes when staged rows are merged into it."""

    rows: pa.Table
    """The whole bucket, `schema.CATALOG`, by product id; the current rows unchanged when nothing is new."""
    duplicates: pa.Table
    """Staged rows whose id came earlier in the same source, `STAGED`."""
    new: int
    edited: int
    unchanged: int


def merge(current: pa.Table, staged: pa.Table) -> Merged:
    """Merge the staged rows of one bucket into its current rows: the first row of an id counts, others are duplicates.

    A product that the source does not name stays as it is.
    """
    staged = staged.sort_by([("product_id", "ascending"), ("unit", "ascending"), ("position", "ascending")])
    ids = staged["product_id"].to_numpy(zero_copy_only=False)
    first = np.ones(len(ids), bool)
    first[1:] = ids[1:] != ids[:-1]
    incoming = staged.filter(pa.array(first)).select(schema.CATALOG.names)
    place = pc.index_in(incoming["product_id"], value_set=current["product_id"].combine_chunks())
    known = pc.is_valid(place)
    before = current.take(pc.drop_null(place)).select(_COMPARED)
    after = incoming.filter(known)
    changed = _differ(before, after.select(_COMPARED))
    touched = pc.is_in(current["product_id"], value_set=after.filter(changed)["product_id"].combine_chunks())
    fresh = incoming.filter(pc.invert(known))
    rows = pa.concat_tables([current.filter(pc.invert(touched)), after.filter(changed), fresh])
    edited = int(pc.sum(changed).as_py() or 0)
    return Merged(
        rows=rows.sort_by("product_id") if edited or fresh.num_rows else current,
        duplicates=staged.filter(pa.array(~first)),
        new=fresh.num_rows,
        edited=edited,
        unchanged=after.num_rows - edited,
    )


_COMPARED = ["text_hash", "image_hash", "image_uri", "label"]


def _differ(before: pa.Table, after: pa.Table) -> pa.Array:
    """Row by row, whether anything but the source's name differs; null equals null."""
    return pa.array(_fingerprints(before) != _fingerprints(after), pa.bool_())


def _fingerprints(rows: pa.Table) -> np.ndarray:
    label = pc.binary_join(rows["label"], "\x1f")
    columns: Sequence[pa.ChunkedArray] = [label if name == "label" else rows[name] for name in rows.column_names]
    joined = pc.binary_join_element_wise(*columns, "\x1e", null_handling="replace", null_replacement="\x00")
    return np.asarray(joined.to_numpy(zero_copy_only=False), dtype=object)
