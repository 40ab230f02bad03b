"""What a product's features are computed from: its content of one modality, or its text and image together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import HASH_COLUMNS, Catalog, digest
from mmbatch.schema import Modality
from mmbatch.tables import Snapshot


class Contents(Protocol):
    """What there is to compute features from."""

    def read(self, bucket: int) -> pa.Table:
        """`product_id` and `content_hash` of a bucket's products that have such a content, by product id."""


@dataclass(frozen=True)
class OfModality:
    """The products' contents of one modality."""

    catalog: Snapshot
    modality: Modality

    def read(self, bucket: int) -> pa.Table:
        """As `Contents.read`."""
        column = HASH_COLUMNS[self.modality]
        rows = self.catalog.read(["product_id", column], buckets=[bucket], filters=pc.field(column).is_valid())
        return rows.rename_columns(["product_id", "content_hash"]).sort_by("product_id")


@dataclass(frozen=True)
class OfLabelled:
    """Those of some contents that labelled products have, of everyone in the bucket who has them.

    An encoded content is stored under the first product of its bucket that has it, with a label or without.
    """

    catalog: Catalog
    contents: Contents

    def read(self, bucket: int) -> pa.Table:
        """As `Contents.read`."""
        labelled = self.catalog.labelled(buckets=[bucket])
        rows = self.contents.read(bucket)
        wanted = rows.filter(pc.is_in(rows["product_id"], value_set=labelled["product_id"].combine_chunks()))
        return rows.filter(pc.is_in(rows["content_hash"], value_set=wanted["content_hash"].combine_chunks()))


@dataclass(frozen=True)
class Together:
    """The products' texts and images together, as far as encoders could take them.

    A content that no encoder of its modality holds a vector of is none: it is in quarantine, or its turn is still to
    come. So a product whose image can be used again some day has another content then.
    """

    catalog: Snapshot
    held: Mapping[Modality, tuple[Snapshot, ...]]
    """Feature tables of the encoders."""

    def read(self, bucket: int) -> pa.Table:
        """As `Contents.read`; the hash is that of `joint_hashes`."""
        return self.parts(bucket).select(["product_id", "content_hash"])

    def parts(self, bucket: int) -> pa.Table:
        """`product_id`, `text_hash` and `image_hash`, null where there is none, and `content_hash` of both."""
        rows = self.catalog.read(["product_id", *HASH_COLUMNS.values()], buckets=[bucket]).sort_by("product_id")
        for modality, column in HASH_COLUMNS.items():
            stored = [table.read(["content_hash"], buckets=[bucket]) for table in self.held.get(modality, ())]
            known = pa.concat_tables(stored)["content_hash"].combine_chunks() if stored else pa.array([], pa.string())
            usable = pc.is_in(rows[column], value_set=known, skip_nulls=True)
            kept = pc.if_else(usable, rows[column], pa.scalar(None, pa.string()))
            rows = rows.set_column(rows.schema.get_field_index(column), column, kept)
        rows = rows.append_column("content_hash", joint_hashes(rows["text_hash"], rows["image_hash"]))
        return rows.filter(pc.is_valid(rows["content_hash"]))


def joint_hashes(text: pa.Array | pa.ChunkedArray, image: pa.Array | pa.ChunkedArray) -> pa.Array:
    """128 bits, hex, of each product's `text_hash` and `image_hash` together; null where it has neither."""
    joined = pc.binary_join_element_wise(text, image, "\x1f", null_handling="replace", null_replacement="")
    return pa.array([digest(both.encode()) if len(both) > 1 else None for both in joined.to_pylist()], pa.string())


@dataclass(frozen=True)
class PossiblyTogether:
    """What `Together` may say of the products, whatever the encoders hold: text and image, or one of the two."""

    catalog: Snapshot

    def read(self, bucket: int) -> pa.Table:
        """As `Contents.read`, but up to three rows for a product."""
        rows = self.catalog.read(["product_id", *HASH_COLUMNS.values()], buckets=[bucket])
        text, image, none = rows["text_hash"], rows["image_hash"], pa.nulls(rows.num_rows, pa.string())
        found = [
            pa.table({"product_id": rows["product_id"], "content_hash": joint_hashes(*pair)})
            for pair in ((text, image), (text, none), (none, image))
        ]
        every = pa.concat_tables(found)
        return every.filter(pc.is_valid(every["content_hash"])).sort_by("product_id")
