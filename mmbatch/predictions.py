"""Predictions: staged for a run, then published in one commit; the latest version is what consumers read."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.catalog import HASH_COLUMNS
from mmbatch.schema import MODALITIES, Modality
from mmbatch.storage import filesystem_of, make_folder
from mmbatch.tables import FileEntry, Snapshot, Table
from mmbatch.workspace import Workspace

_INPUTS = ["product_id", "text_hash", "image_hash", "quarantined", "predictor"]

_MARKS = pa.array(
    [[name for bit, name in enumerate(MODALITIES) if code >> bit & 1] for code in range(1 << len(MODALITIES))],
    pa.list_(pa.string()),
)
"""Every subset of the modalities, sorted; bit m of its place says whether the m-th is in it."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What a run publishes: files that are written, and the commits that make them seen."""

    entry: Mapping[str, Any]
    """Of the ledger (`Run.entry`)."""
    read_version: int
    """Of `predictions`, which the files were made from; -1: there was none."""
    added: tuple[FileEntry, ...]
    """Files of `predictions`."""
    removed: tuple[FileEntry, ...]
    changes: tuple[FileEntry, ...]
    """Files of `changes`."""
    refused: bool = False
    """By the gate: it is published only when a person approves it."""

    @property
    def run_id(self) -> str:
        """Of the run."""
        return str(self.entry["run_id"])

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """What `to_json` wrote."""
        found = json.loads(text)
        files = {name: tuple(FileEntry(**file) for file in found[name]) for name in ("added", "removed", "changes")}
        entry = found["entry"] | {"started": datetime.fromisoformat(found["entry"]["started"])}
        return cls(**found | files | {"entry": entry})


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
    at: Snapshot | None = None
    """Version of `table` that `published` gives; None: the latest."""

    @cached_property
    def table(self) -> Table:
        """What is published."""
        return self.workspace.table("predictions", schema=schema.PREDICTIONS)

    def pinned(self) -> Self:
        """These predictions as they are published now, for whoever reads more than once."""
        return replace(self, at=self.table.snapshot())

    def published(self) -> Snapshot:
        """The pinned version of `table`, or the latest."""
        return self.at or self.table.snapshot()

    def staged(self, run_id: str) -> Table:
        """What a run wants to publish."""
        return self.workspace.table("staged", run_id, schema=schema.PREDICTIONS)

    def set_aside(self, publication: Publication) -> None:
        """Keep what a run is about to publish, so that it is not lost between the commit and those that follow it."""
        filesystem, path = filesystem_of(self._aside(publication.run_id))
        make_folder(self.workspace.path("staged", publication.run_id))
        filesystem.pipe_file(path, publication.to_json().encode())

    def aside(self, run_id: str) -> Publication | None:
        """What a run has set aside; None: nothing."""
        filesystem, path = filesystem_of(self._aside(run_id))
        return Publication.from_json(filesystem.cat_file(path)) if filesystem.exists(path) else None

    def runs_aside(self) -> list[str]:
        """Runs that have staged something and have not cleaned up, the first first."""
        filesystem, root = filesystem_of(self.workspace.path("staged"))
        return sorted(path.rpartition("/")[2] for path in filesystem.glob(f"{root}/*"))

    def waits(self, run_id: str) -> bool:
        """Whether what the gate refused can be approved still: nothing has been published since."""
        found = self.aside(run_id)
        return found is not None and found.refused and found.read_version == self.table.version()

    def _aside(self, run_id: str) -> str:
        return self.workspace.path("staged", run_id, "publication.json")

    def outdated(
        self,
        keys: pa.Table,
        *,
        predictor: str,
        buckets: Collection[int],
        rejected: Mapping[Modality, pa.Array],
        explained: bool = False,
    ) -> Outdated:
        """Compare catalog keys of some buckets with what their published predictions were made from.

        A prediction without a modality stands where that one is in quarantine (`rejected`: ids by modality, see
        `quarantine.rejected_parts`) and the prediction says so. With `explained`, one that does not say what each
        modality contributed does not stand.
        """
        published = self.published().read([*_INPUTS, "modality_text"], buckets=buckets)
        named = keys.append_column("predictor", pa.repeat(predictor, keys.num_rows).cast(pa.string()))
        kept = published.filter(pc.is_valid(published["modality_text"])) if explained else published
        made = _joined(kept).combine_chunks()
        whole, without = (_joined(_marked(rows, rejected)) for rows in (named, _without(named, rejected)))
        stands = pc.or_(pc.is_in(whole, value_set=made), pc.is_in(without, value_set=made))
        present = pc.is_in(published["product_id"], value_set=keys["product_id"].combine_chunks())
        return Outdated(
            keys=keys.filter(pc.invert(stands)),
            removed=published.num_rows - int(pc.sum(present).as_py() or 0),
            unchanged=int(pc.sum(stands).as_py() or 0),
        )

    def categories(self, product_ids: pa.ChunkedArray, bucket: int) -> pa.Array:
        """Published category of each product of a bucket, string; null where there is none."""
        published = self.published().read(["product_id", "category"], buckets=[bucket]).combine_chunks()
        place = pc.index_in(product_ids, value_set=published["product_id"].combine_chunks()).combine_chunks()
        return published["category"].combine_chunks().take(place)


def merged(published: pa.Table, staged: pa.Table, *, product_ids: pa.Array) -> pa.Table:
    """A bucket as it will be published: the staged rows over the published ones, of products that exist."""
    kept = pc.and_(
        pc.is_in(published["product_id"], value_set=product_ids),
        pc.invert(pc.is_in(published["product_id"], value_set=staged["product_id"].combine_chunks())),
    )
    return pa.concat_tables([published.filter(kept), staged]).sort_by("product_id")


def marks(rows: pa.Table, rejected: Mapping[Modality, pa.Array]) -> pa.Array:
    """Modalities of each row (`product_id`, hashes) that are missing and in quarantine: list<string>, sorted."""
    code_N = np.zeros(rows.num_rows, np.int64)
    for bit, modality in enumerate(MODALITIES):
        missing = pc.and_(pc.is_null(rows[HASH_COLUMNS[modality]]), _in(rows, rejected[modality]))
        code_N |= missing.to_numpy().astype(np.int64) << bit
    return _MARKS.take(pa.array(code_N))


def _in(rows: pa.Table, ids: pa.Array) -> pa.ChunkedArray:
    return pc.is_in(rows["product_id"], value_set=ids)


def _without(rows: pa.Table, rejected: Mapping[Modality, pa.Array]) -> pa.Table:
    """The rows without the hashes of what is in quarantine: contents that could not be encoded."""
    for modality, column in HASH_COLUMNS.items():
        kept = pc.if_else(_in(rows, rejected[modality]), pa.scalar(None, pa.string()), rows[column])
        rows = rows.set_column(rows.schema.get_field_index(column), column, kept)
    return rows


def _marked(rows: pa.Table, rejected: Mapping[Modality, pa.Array]) -> pa.Table:
    return rows.append_column("quarantined", marks(rows, rejected))


def _joined(rows: pa.Table) -> pa.ChunkedArray:
    columns = [pc.binary_join(rows[name], ",") if name == "quarantined" else rows[name] for name in _INPUTS]
    return pc.binary_join_element_wise(*columns, "\x1f", null_handling="replace", null_replacement="\x00")
