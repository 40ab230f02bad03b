"""Stored sequences of labelled products, as the training of a head reads them.

A unit is as many products as have `UNIT_BYTES` of states; a set of one unit is read once and held.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmbatch.catalog import HASH_COLUMNS
from mmbatch.fusion.padding import pad_sequences
from mmbatch.models import Model
from mmbatch.pipelines.dealing import Inputs
from mmbatch.pipelines.feature_rows import UNIT_BYTES
from mmbatch.pipelines.rows import Labels
from mmbatch.schema import Split
from mmbatch.sequence_store import SequenceStore
from mmbatch.sequences import Sequences
from mmbatch.workspace import Workspace

SCORED = 256
"""Products scored at a time: of 64 tokens and 49 patches 1,280 wide, 148 MB of float32 with their padding."""

DRAWN: tuple[Split, ...] = ("train", "fusion")


def draw(labels: Labels, *, limit: int, seed: int) -> dict[Split, pa.Table]:
    """At most `limit` train and fusion rows of known categories, in proportion: those whose ids have the least hashes.

    Columns `bucket`, `code`, `text_hash`, `image_hash`, by bucket; `seed` decides the hashes.
    """
    known = labels.rows[labels.rows["split"].isin(DRAWN) & (labels.rows["code"] >= 0)]
    share = min(1.0, limit / max(1, len(known)))
    found = {}
    for split in DRAWN:
        rows = known[known["split"] == split].sort_values(["bucket", "product_id"])
        ids = rows["product_id"].to_numpy(object)
        order = np.argsort(pd.util.hash_array(ids, hash_key=f"{seed:016d}"[-16:], categorize=False), kind="stable")
        chosen = rows.iloc[np.sort(order[: int(share * len(rows))])]
        columns = {name: pa.array(chosen[name]) for name in ("bucket", "code")}
        hashes = {name: pa.array(chosen[name], pa.string(), from_pandas=True) for name in HASH_COLUMNS.values()}
        found[split] = pa.table(columns | hashes)
    return found


@dataclass(frozen=True, eq=False)
class Ragged:
    """Sequences of each encoder and class codes int64 `[N]` of the rows of a unit."""

    sequences: Mapping[str, Sequences]
    codes: np.ndarray

    def inputs(self, chosen: np.ndarray, device: torch.device) -> Inputs:
        """Features float32 `[B, T, F]` and presence bool `[B, T]` of each encoder."""
        padded = {name: pad_sequences(found.take(chosen), device) for name, found in self.sequences.items()}
        return (
            {name: features for name, (features, _) in padded.items()},
            {name: filled for name, (_, filled) in padded.items()},
        )


@dataclass(frozen=True)
class SequenceRows:
    """Sequences of the labelled products that are drawn."""

    workspace: Workspace
    encoders: Sequence[Model]
    categories: Sequence[str]
    """A class code is an index into it."""
    rows: Mapping[Split, pa.Table]
    """Of `draw`; with `bytes`, once `stored` has measured them."""
    widths: Mapping[str, int]
    """Numbers in a state of each encoder."""
    workers: int = 1
    _held: dict[Split, Ragged] = field(default_factory=dict, init=False, repr=False)

    @property
    def scored(self) -> int:
        """Products that a head scores at a time."""
        return SCORED

    @cached_property
    def stores(self) -> dict[str, SequenceStore]:
        """The sequences of each encoder."""
        return {
            model.name: SequenceStore(workspace=self.workspace, encoder=model.id, width=self.widths[model.name])
            for model in self.encoders
        }

    def stored(self) -> Self:
        """The rows of which at least one sequence is stored, with the `bytes` of all that are."""
        return replace(self, rows={split: self._measured(rows) for split, rows in self.rows.items()})

    def sizes(self, split: Split) -> list[int]:
        """Rows of each unit of a split."""
        return [len(unit) for unit in self._units[split]]

    def load(self, split: Split, unit: int) -> Ragged:
        """Read one unit."""
        if split in self._held:
            return self._held[split]
        part = self._units[split][unit]
        rows = self.rows[split].slice(part.start, len(part))
        buckets = pc.unique(rows["bucket"]).to_pylist()
        sequences = {
            model.name: self.stores[model.name].read(rows[HASH_COLUMNS[model.card["modality"]]], buckets=buckets)
            for model in self.encoders
        }
        found = Ragged(sequences, rows["code"].to_numpy())
        if len(self._units[split]) == 1:
            self._held[split] = found
        return found

    @cached_property
    def _units(self) -> dict[Split, list[range]]:
        """Rows that are read together: no more than a worker's share, so that each worker has some."""
        found = {}
        for split, rows in self.rows.items():
            share = max(1, -(-rows.num_rows // self.workers))
            found[split] = cut(rows["bytes"].to_numpy(), most_bytes=UNIT_BYTES, most_rows=share)
        return found

    def _measured(self, rows: pa.Table) -> pa.Table:
        size = np.zeros(rows.num_rows, np.int64)
        buckets = rows["bucket"].to_numpy()
        for bucket in np.unique(buckets).tolist():
            at = np.flatnonzero(buckets == bucket)
            part = rows.take(pa.array(at))
            for model in self.encoders:
                store, column = self.stores[model.name], part[HASH_COLUMNS[model.card["modality"]]]
                held = store.table.read(["content_hash", "length"], buckets=[bucket])
                place = pc.index_in(column, value_set=held["content_hash"].combine_chunks(), skip_nulls=True)
                lengths = pc.fill_null(held["length"].combine_chunks().take(place.combine_chunks()), 0)
                size[at] += 2 * store.width * np.asarray(lengths, np.int64)
        return rows.append_column("bytes", pa.array(size)).filter(pa.array(size > 0))


def cut(sizes: np.ndarray, *, most_bytes: int, most_rows: int) -> list[range]:
    """Ranges of N rows of these bytes, int64 `[N]`, in order; a row that is larger is a range of its own."""
    starts, held = [0], 0
    for row, size in enumerate(sizes.tolist()):
        if row > starts[-1] and (held + size > most_bytes or row - starts[-1] >= most_rows):
            starts.append(row)
            held = 0
        held += size
    ends = [*starts[1:], len(sizes)]
    return [range(start, end) for start, end in zip(starts, ends, strict=True) if end > start]
