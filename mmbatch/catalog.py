"""Catalog: one row per product, with a content hash per modality, and the splits of the labelled ones."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.corrections import Corrections
from mmbatch.image_access import shown
from mmbatch.image_files import read_images
from mmbatch.images import ImageError
from mmbatch.learned_classes import among, fixed_classes
from mmbatch.schema import Modality, bucket_of
from mmbatch.tables import Snapshot, Table
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

HASH_COLUMNS: dict[Modality, str] = {"image": "image_hash", "text": "text_hash"}
"""The catalog's column that holds the content hash of each modality."""

KEYS = ["product_id", "text_hash", "title_hash", "description_hash", "image_hash", "bucket"]
"""Columns that say which products there are and what their contents are, without any content."""

STAGED = pa.schema(
    [
        *schema.SOURCE,
        ("text_hash", pa.string()),
        ("title_hash", pa.int64()),
        ("description_hash", pa.int64()),
        ("source", pa.string()),
        ("unit", pa.int64()),
        ("bucket", pa.int32()),
    ]
)
"""A checked source row on its way into the catalog; `(unit, position)` orders the rows of one source."""

WEB_ADDRESS = "(?i)^https?://"
"""Pattern of an image's URI whose bytes are stored, as the web cannot be asked again and again."""

FIELDS = {"title": "title_hash", "description": "description_hash", "image": "image_hash", "label": "label"}
"""What of a product can be edited -> the column that tells."""


_IMAGE_CONTENT = pa.schema(
    [
        ("product_id", pa.string()),
        ("content_hash", pa.string()),
        ("image", pa.binary()),
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The products of a workspace."""

    workspace: Workspace
    at: tuple[Snapshot, Snapshot] | None = None
    """Versions of `table` and `images` that `content` reads; None: the latest."""

    @cached_property
    def table(self) -> Table:
        """One row per product."""
        return self.workspace.table("catalog", schema=schema.CATALOG)

    @cached_property
    def images(self) -> Table:
        """Image files that came as bytes or from the web, by content."""
        return self.workspace.table("images", schema=schema.IMAGES)

    @cached_property
    def splits(self) -> Table:
        """Split of each labelled product."""
        return self.workspace.table("splits", schema=schema.SPLIT)

    def keys(self, buckets: Collection[int] | None = None) -> pa.Table:
        """`KEYS` of every product: all that planning needs."""
        return self.products().read(KEYS, buckets=buckets)

    def labels(self, buckets: Collection[int] | None = None) -> pa.Table:
        """Labelled products: `product_id`, `category` (cut to the workspace's level), hashes, `split`, `bucket`.

        Rows are ordered by product id within a bucket; `split` is null where none has been drawn yet. Where the
        workspace learns the most frequent classes only, products of others are left out once these are fixed.
        """
        rows = self.labelled(["text_hash", "image_hash", "bucket"], buckets)
        if (classes := fixed_classes(self.workspace)) is not None:
            names = pc.unique(rows["category"]).to_pylist()
            learned = among(names, classes, TaxonomyHistory.read(self.workspace))
            rows = rows.filter(pc.is_in(rows["category"], value_set=pa.array(learned, pa.string())))
        drawn = self.splits.read(["product_id", "split"], buckets=buckets)
        found = pc.index_in(rows["product_id"], value_set=drawn["product_id"].combine_chunks())
        rows = rows.append_column("split", drawn["split"].combine_chunks().take(found.combine_chunks()))
        return rows.sort_by([("bucket", "ascending"), ("product_id", "ascending")])

    def labelled(self, columns: Sequence[str] = (), buckets: Collection[int] | None = None) -> pa.Table:
        """`product_id`, `category` (cut to the workspace's level) and more columns of the products that have a label.

        A person's correction stands over what the source says, unless its category was removed or split since.
        """
        corrected = self.corrected(buckets)
        ids = corrected["product_id"].combine_chunks()
        labelled = pc.field("label").is_valid() | pc.field("product_id").isin(ids)
        rows = self.products().read(["product_id", "label", *columns], buckets=buckets, filters=labelled)
        place = pc.index_in(rows["product_id"], value_set=ids).combine_chunks()
        said = corrected["category"].combine_chunks().take(place)
        given = category_of(rows["label"], self.workspace.settings.level)
        return rows.set_column(1, "category", pc.coalesce(pa.chunked_array([said]), given))

    def corrected(self, buckets: Collection[int] | None = None) -> pa.Table:
        """`product_id` and `category` of the corrections that count: a product's newest, if its category is there."""
        newest = Corrections(workspace=self.workspace).newest(buckets)
        category = category_of(newest["label"], self.workspace.settings.level)
        rows = newest.select(["product_id"]).append_column("category", category)
        if not rows.num_rows:
            return rows
        now = TaxonomyHistory.read(self.workspace).current(pc.unique(category).to_pylist())
        there = pa.array([name for name, current in now.items() if current is not None], pa.string())
        return rows.filter(pc.is_in(category, value_set=there))

    def pinned(self) -> "Catalog":
        """This catalog as it is now, for workers: `content` then reads these versions and never opens a log."""
        return replace(self, at=(self.table.snapshot(), self.images.snapshot()))

    def products(self) -> Snapshot:
        """The pinned version of `table`, or the latest."""
        return self.at[0] if self.at else self.table.snapshot()

    def content(self, modality: Modality, bucket: int, hashes: pa.Array) -> pa.Table:
        """The content behind hashes of one bucket, at least one, one row each, in their order.

        `product_id` (the first that has it) and `content_hash`; text: `title`, `description`; image: `image` (file
        bytes; null where the image no longer can be read from its URI or is another one now), `reason` and `message`
        (why there is no image; null where there is).
        """
        column = HASH_COLUMNS[modality]
        names = ["title", "description"] if modality == "text" else ["image_uri"]
        wanted = pc.field(column).isin(hashes)
        rows = self.products().read(["product_id", column, *names], buckets=[bucket], filters=wanted)
        rows = rows.sort_by("product_id")
        rows = rows.take(pc.index_in(hashes, value_set=rows[column].combine_chunks()))
        rows = rows.rename_columns(["product_id", "content_hash", *names])
        return rows if modality == "text" else self._with_image_bytes(rows, bucket)

    def _with_image_bytes(self, rows: pa.Table, bucket: int) -> pa.Table:
        hashes, files = rows["content_hash"].combine_chunks(), self.at[1] if self.at else self.images.snapshot()
        ends = pc.min_max(hashes)  # the range lets the reader skip row groups
        within = (pc.field("image_hash") >= ends["min"]) & (pc.field("image_hash") <= ends["max"])
        wanted = within & pc.field("image_hash").isin(hashes)
        stored = files.read(["image_hash", "image"], buckets=[bucket], filters=wanted)
        place = pc.index_in(rows["content_hash"], value_set=stored["image_hash"].combine_chunks()).to_pylist()
        uris = [None if at is not None else uri for at, uri in zip(place, rows["image_uri"].to_pylist(), strict=True)]
        found = [
            stored["image"][at].as_py() if at is not None else _unchanged(image, uri, content_hash)
            for at, uri, image, content_hash in zip(
                place, uris, read_images(uris), rows["content_hash"].to_pylist(), strict=True
            )
        ]
        columns = rows.drop_columns("image_uri").to_pydict() | {
            "image": [None if isinstance(image, ImageError) else image for image in found],
            "reason": [image.reason if isinstance(image, ImageError) else None for image in found],
            "message": [str(image) if isinstance(image, ImageError) else None for image in found],
        }
        return pa.table(columns, schema=_IMAGE_CONTENT)


def _unchanged(image: bytes | ImageError | None, uri: str | None, content_hash: str) -> bytes | ImageError:
    """What was read from `uri`, when it still is the image with that hash."""
    if image is None or uri is None:
        return ImageError("image_missing", "the image is neither stored nor at a URI")
    if isinstance(image, ImageError) or digest(image) == content_hash:
        return image
    return ImageError("image_changed", f"another image than at ingest: {shown(uri)}")


def digest(content: bytes) -> str:
    """128-bit BLAKE2b in hex: the identity of a content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def text_keys(texts: pa.ChunkedArray) -> pa.Array:
    """64-bit SipHash of each text, int64 `[N]`; null where there is none: whether one field of a product was edited."""
    values = pc.fill_null(texts, "").to_numpy(zero_copy_only=False)
    hashes = pd.util.hash_array(np.asarray(values, dtype=object), categorize=False)
    return pa.array(hashes.view(np.int64), mask=np.asarray(texts.is_null()))


def category_of(label: pa.ChunkedArray, level: int) -> pa.ChunkedArray:
    """Category paths cut to `level` names and joined into one string; a shorter path is a category of its own."""
    return pc.binary_join(pc.list_slice(label, 0, level), schema.PATH_SEPARATOR)


def stage(rows: pa.Table, *, source: str, unit: int, buckets: int) -> pa.Table:
    """Checked source rows with hashes and bucket (`STAGED`): what a worker writes for the merge.

    Images of local paths and object stores stay there; others, those from the web too, are stored.
    """
    joined = pc.binary_join_element_wise(
        rows["title"], rows["description"], "\x1f", null_handling="replace", null_replacement="\x00"
    )
    missing = pc.and_(pc.is_null(rows["title"]), pc.is_null(rows["description"]))
    texts = [digest(text.encode()) for text in joined.to_pylist()]
    images = [None if image is None else digest(image) for image in rows["image"].to_pylist()]
    stays_there = pc.fill_null(pc.invert(pc.match_substring_regex(rows["image_uri"], WEB_ADDRESS)), False)
    columns = {name: rows[name] for name in schema.SOURCE.names} | {
        "image": pc.if_else(stays_there, pa.scalar(None, pa.binary()), rows["image"]),
        "text_hash": pc.if_else(missing, pa.scalar(None, pa.string()), pa.array(texts, pa.string())),
        "title_hash": text_keys(rows["title"]),
        "description_hash": text_keys(rows["description"]),
        "image_hash": pc.coalesce(pa.array(images, pa.string()), rows["image_hash"]),
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
    """Staged rows that do not count, as another row of the source has their id: `STAGED`, and `differing`, the names of
    the `FIELDS` in which that row is another one, joined by commas."""
    added: pa.Array
    """Ids of products that were not there, ascending."""
    removed: pa.Array
    """Ids of products that are not in `rows` any more, ascending."""
    edited: int
    edited_fields: dict[str, int]
    """Field -> edited products in which it differs; of one that only moved its image, none does."""
    unchanged: int
    deleted: int
    """Products removed because their rows say so."""
    deleted_unknown: int
    """Rows that delete a product which was not there."""

    @property
    def new(self) -> int:
        """Products that were not there."""
        return len(self.added)


def merge(current: pa.Table, staged: pa.Table, *, refused: pa.Array | None = None, last: bool = False) -> Merged:
    """Merge the staged rows of one bucket into its current rows: the first row of an id counts, or else the `last`.

    A product that the source does not name stays as it is, and one that its row deletes is removed. With `refused`, the
    source names the whole catalog: a product with neither a staged row nor its id in `refused`, whose rows could not be
    used, is removed.
    """
    chosen, duplicates = _chosen(staged, last=last)
    deleted = chosen.filter(chosen["deleted"])["product_id"].combine_chunks()
    incoming = chosen.filter(pc.invert(chosen["deleted"]))
    gone_now = pc.is_in(current["product_id"], value_set=deleted)
    gone = pc.or_(gone_now, _unnamed(current, chosen, refused))
    kept = current.filter(pc.invert(gone))
    place = pc.index_in(incoming["product_id"], value_set=kept["product_id"].combine_chunks())
    known = pc.is_valid(place)
    before, after = kept.take(pc.drop_null(place)), incoming.filter(known).select(schema.CATALOG.names)
    changed = _differ(before, after, _COMPARED)
    was, edited = before.filter(changed), after.filter(changed)
    touched = pc.is_in(kept["product_id"], value_set=edited["product_id"].combine_chunks())
    fresh = incoming.filter(pc.invert(known)).select(schema.CATALOG.names)
    removed = current.filter(gone)["product_id"].combine_chunks()
    rows = pa.concat_tables([kept.filter(pc.invert(touched)), edited, fresh])
    return Merged(
        rows=rows.sort_by("product_id") if edited.num_rows or fresh.num_rows or len(removed) else current,
        duplicates=duplicates,
        added=fresh["product_id"].combine_chunks(),
        removed=removed,
        edited=edited.num_rows,
        edited_fields={field: _count(_differ(was, edited, [column])) for field, column in FIELDS.items()},
        unchanged=after.num_rows - edited.num_rows,
        deleted=_count(gone_now),
        deleted_unknown=len(deleted) - _count(gone_now),
    )


def _chosen(staged: pa.Table, *, last: bool) -> tuple[pa.Table, pa.Table]:
    """The one row of each id that counts, by product id, and the others, with the fields in which they differ."""
    staged = staged.sort_by([("product_id", "ascending"), ("unit", "ascending"), ("position", "ascending")])
    ids = staged["product_id"].to_numpy(zero_copy_only=False)
    counts = np.ones(len(ids), bool)
    counts[slice(None, -1) if last else slice(1, None)] = ids[1:] != ids[:-1]
    chosen, others = staged.filter(pa.array(counts)), staged.filter(pa.array(~counts))
    same = chosen.take(pc.index_in(others["product_id"], value_set=chosen["product_id"].combine_chunks()))
    names = [pc.if_else(_differ(same, others, [column]), f", {field}", "") for field, column in FIELDS.items()]
    differing = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*names, ""), start=len(", "))
    return chosen, others.append_column("differing", differing)


def _unnamed(current: pa.Table, incoming: pa.Table, refused: pa.Array | None) -> pa.ChunkedArray:
    """Which current rows a source that names the whole catalog leaves out; none when it does not."""
    if refused is None:
        return pc.is_null(current["product_id"])  # no product is without an id
    named = pa.concat_arrays([*incoming["product_id"].chunks, refused])
    return pc.invert(pc.is_in(current["product_id"], value_set=named))


_COMPARED = ["text_hash", "image_hash", "image_uri", "label"]


def _differ(before: pa.Table, after: pa.Table, columns: Sequence[str]) -> pa.Array:
    """Row by row, whether any of these columns differs; null equals null."""
    return pa.array(_fingerprints(before.select(columns)) != _fingerprints(after.select(columns)), pa.bool_())


def _fingerprints(rows: pa.Table) -> np.ndarray:
    columns = [
        pc.binary_join(rows[name], "\x1f") if name == "label" else rows[name].cast(pa.string())
        for name in rows.column_names
    ]
    joined = pc.binary_join_element_wise(*columns, "\x1e", null_handling="replace", null_replacement="\x00")
    return np.asarray(joined.to_numpy(zero_copy_only=False), dtype=object)


def _count(mask: pa.Array | pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
