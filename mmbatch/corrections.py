"""Corrections: what people say is a product's category, over what the source says.

A correction is a commit of its own that asks for no turn at writing, so that a person never waits for a run; a run
reads the corrections that there were when its turn began (`Workspace.corrections_at`), whatever is added meanwhile.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from mmbatch import schema
from mmbatch.runs import new_run_id
from mmbatch.tables import Table
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A product's category, as a person gives it."""

    product_id: str
    label: Sequence[str] | None
    """Category path, root first; None: earlier corrections are taken back, and the catalog's label counts."""
    label_before: Sequence[str] | None
    """What counted when the person looked; None: no label."""
    author: str
    run_id: str | None
    """Of the published prediction that the person saw; None: there was none."""


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """The corrections of a workspace."""

    workspace: Workspace

    @property
    def table(self) -> Table:
        """One row per correction, append-only; it has no epoch, so that it is written whoever holds the workspace."""
        return Table(self.workspace.path("corrections"), schema.CORRECTIONS)

    def version(self) -> int:
        """Of the corrections that count; -1: there are none."""
        at = self.workspace.corrections_at
        return self.table.version() if at is None else at

    def add(self, correction: Correction) -> str:
        """Commit a correction; its id."""
        correction_id = new_run_id()
        bucket = int(schema.bucket_of([correction.product_id], self.workspace.settings.buckets)[0])
        row = {name: getattr(correction, name) for name in ("product_id", "author", "run_id")} | {
            "correction_id": correction_id,
            "label": None if correction.label is None else list(correction.label),
            "label_before": None if correction.label_before is None else list(correction.label_before),
            "corrected": datetime.now(UTC),
            "bucket": bucket,
        }
        file = self.table.write_file(pa.Table.from_pylist([row], schema=schema.CORRECTIONS), bucket=bucket)
        self.table.commit([file], app_id=correction_id)
        return correction_id

    def newest(self, buckets: Collection[int] | None = None) -> pa.Table:
        """`schema.CORRECTIONS`: the newest correction of each product, unless it takes back, by product id."""
        if self.workspace.corrections_at == -1:
            return schema.CORRECTIONS.empty_table()
        rows = self.table.snapshot(self.workspace.corrections_at).read(buckets=buckets)
        rows = rows.sort_by([(name, "ascending") for name in ("product_id", "corrected", "correction_id")])
        ids = rows["product_id"].to_numpy(zero_copy_only=False)
        last = np.append(ids[1:] != ids[:-1], True)[: len(ids)]
        return rows.filter(pa.array(last & ~np.asarray(rows["label"].is_null())))
