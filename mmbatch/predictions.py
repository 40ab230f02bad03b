"""Predictions: staged for a run, then published in one commit; the latest version is what consumers read."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.tables import FileEntry, Table
from mmbatch.workspace import Workspace

_INPUTS = ["product_id", "text_hash", "image_hash", "predictor"]


class Outdated(NamedTuple):
    """Products of one bucket whose published prediction does not stand any more."""

    keys: pa.Table
    """Catalog keys of the products to predict: new ones, edited ones, and those of another predictor."""
    removed: int
    """Published products that the catalog does not have."""
    unchanged: int


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The published predictions of a workspace and the staged ones of a run."""

    workspace: Workspace

    @cached_property
    def table(self) -> Table:
        """What is published."""
        return self.workspace.table("predictions", schema=schema.PREDICTIONS)

    def staged(self, run_id: str) -> Table:
        """What a run wants to publish."""
        return self.workspace.table("staged", run_id, schema=schema.PREDICTIONS)

    def outdated(self, keys: pa.Table, *, predictor: str, buckets: Collection[int]) -> Outdated:
        """Compare catalog keys of some buckets with what their published predictions were made from."""
        published = self.table.read(_INPUTS, buckets=buckets)
        wanted = keys.append_column("predictor", pa.repeat(predictor, keys.num_rows).cast(pa.string()))
        stands = pc.is_in(_joined(wanted), value_set=_joined(published).combine_chunks())
        present = pc.is_in(published["product_id"], value_set=keys["product_id"].combine_chunks())
        return Outdated(
            keys=keys.filter(pc.invert(stands)),
            removed=published.num_rows - int(pc.sum(present).as_py() or 0),
            unchanged=int(pc.sum(stands).as_py() or 0),
        )

    def merge_bucket(
        self, bucket: int, *, run_id: str, product_ids: pa.Array
    ) -> tuple[list[FileEntry], list[FileEntry]]:
        """Write one bucket as it will be published: the staged rows over the published ones, of products that exist.

        Returns:
            Files to add and files to remove.
        """
        before = self.table.files([bucket])
        staged = self.staged(run_id).read(buckets=[bucket])
        published = self.table.read_files(before)
        kept = pc.and_(
            pc.is_in(published["product_id"], value_set=product_ids),
            pc.invert(pc.is_in(published["product_id"], value_set=staged["product_id"].combine_chunks())),
        )
        rows = pa.concat_tables([published.filter(kept), staged]).sort_by("product_id")
        return ([self.table.write_file(rows, bucket=bucket)] if rows.num_rows else []), before


def _joined(rows: pa.Table) -> pa.ChunkedArray:
    columns = [rows[name] for name in _INPUTS]
    return pc.binary_join_element_wise(*columns, "\x1f", null_handling="replace", null_replacement="\x00")
