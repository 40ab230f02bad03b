"""Stored features of labelled products, as training reads them: unit by unit, so that they never have to fit in memory.

A unit is a few whole buckets whose vectors take about `UNIT_BYTES`; a set of one unit is read once and held. With W
workers, the units of an epoch are dealt out among them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.feature_store import FeatureStore
from mmbatch.models import Model
from mmbatch.pipelines.extract import store_of
from mmbatch.pipelines.rows import Labels
from mmbatch.predictor import Features
from mmbatch.schema import SPLITS, Split
from mmbatch.workspace import Workspace

UNIT_BYTES = 512 << 20
"""Of vectors read at a time: 90,000 products of three encoders of 1,000 numbers."""

Batch = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
"""Vectors float32 `[B, F]` and presence bool `[B]` of each encoder, and class codes int64 `[B]`."""


@dataclass(frozen=True)
class Unit:
    """Whole buckets that are read together."""

    buckets: tuple[int, ...]
    rows: int
    """Labelled products of known categories in them, with or without vectors."""


def rows_per_bucket(labels: Labels) -> dict[Split, dict[int, int]]:
    """How many products of known categories each bucket has of each split."""
    known = labels.rows[labels.rows["code"] >= 0]
    counts = {split: known.loc[known["split"] == split, "bucket"].value_counts() for split in SPLITS}
    return {split: {int(bucket): int(rows) for bucket, rows in found.items()} for split, found in counts.items()}  # type: ignore[call-overload]


@dataclass(frozen=True)
class FeatureRows:
    """Features of the labelled products of known categories that have at least one vector."""

    workspace: Workspace
    encoders: Sequence[Model]
    categories: Sequence[str]
    """A class code is an index into it."""
    rows: Mapping[Split, Mapping[int, int]]
    """Of `rows_per_bucket`."""
    workers: int = 1
    _held: dict[Split, tuple[Features, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    def units(self, split: Split) -> list[Unit]:
        """The split's units: no larger than a worker's share, so that each worker has some."""
        rows = self.rows[split]
        most = max(1, min(UNIT_BYTES // self._bytes_per_row, -(-sum(rows.values()) // self.workers)))
        units: list[Unit] = []
        for bucket, count in sorted(rows.items()):
            if units and units[-1].rows + count <= most:
                units[-1] = Unit((*units[-1].buckets, bucket), units[-1].rows + count)
            else:
                units.append(Unit((bucket,), count))
        return units

    def read(self, split: Split, *, worker: int = 0) -> Iterator[tuple[Features, np.ndarray]]:
        """Features and class codes int64 `[N]` of a worker's part of one split, a unit at a time."""
        for unit in self.units(split)[worker :: self.workers]:
            yield self._unit(split, unit)

    def vectors(self, encoder: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Vectors and class codes of the train rows that one encoder has a vector of, a unit at a time."""
        for features, codes in self.read("train"):
            vectors, present = features[encoder]
            yield vectors[present], codes[present]

    def steps(self, epoch: int, *, batch: int, seed: int) -> int:
        """Steps of an epoch: those of the worker that has most of them."""
        shares = [self._order(epoch, seed)[worker :: self.workers] for worker in range(self.workers)]
        return max(sum(-(-unit.rows // self._share(batch)) for unit in share) for share in shares)

    def batches(self, epoch: int, *, batch: int, seed: int, worker: int = 0) -> Iterator[Batch]:
        """A worker's shuffled minibatches of an epoch's train rows, no more than `steps`."""
        share = self._share(batch)
        for number, unit in enumerate(self._order(epoch, seed)[worker :: self.workers]):
            features, codes = self._unit("train", unit)
            order = np.random.default_rng([seed, epoch, worker, number]).permutation(len(codes))
            for start in range(0, len(order), share):
                chosen = order[start : start + share]
                part = {name: (vectors[chosen], present[chosen]) for name, (vectors, present) in features.items()}
                yield *as_tensors(part), torch.from_numpy(codes[chosen])

    def _share(self, batch: int) -> int:
        return max(1, batch // self.workers)

    def _order(self, epoch: int, seed: int) -> list[Unit]:
        units = self.units("train")
        return [units[index] for index in np.random.default_rng([seed, epoch]).permutation(len(units))]

    def _unit(self, split: Split, unit: Unit) -> tuple[Features, np.ndarray]:
        if split in self._held:
            return self._held[split]
        parts = [self._bucket(bucket, split) for bucket in unit.buckets]
        names = [model.name for model in self.encoders]
        features = {
            name: (
                np.concatenate([part[name][0] for part, _ in parts]),
                np.concatenate([part[name][1] for part, _ in parts]),
            )
            for name in names
        }
        found = features, np.concatenate([codes for _, codes in parts])
        if len(self.units(split)) == 1:
            self._held[split] = found
        return found

    def _bucket(self, bucket: int, split: Split) -> tuple[Features, np.ndarray]:
        rows = Catalog(workspace=self.workspace).labels([bucket])
        rows = rows.filter(pc.equal(rows["split"], split))
        place = pc.index_in(rows["category"], value_set=pa.array(self.categories, pa.string()))
        rows, place = rows.filter(pc.is_valid(place)), pc.drop_null(place)
        features = {
            name: store.read(rows[HASH_COLUMNS[store.modality]], buckets=[bucket])
            for name, store in self._stores.items()
        }
        usable = np.any([present for _, present in features.values()], axis=0)
        kept = {name: (vectors[usable], present[usable]) for name, (vectors, present) in features.items()}
        return kept, place.to_numpy().astype(np.int64)[usable]

    @cached_property
    def _stores(self) -> dict[str, FeatureStore]:
        return {model.name: store_of(self.workspace, model) for model in self.encoders}

    @cached_property
    def _bytes_per_row(self) -> int:
        return sum(2 * int(model.card["width"]) for model in self.encoders)


def as_tensors(features: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Vectors as float32 and presence, as a fusion head takes them."""
    return (
        {name: torch.from_numpy(vectors.astype(np.float32)) for name, (vectors, _) in features.items()},
        {name: torch.from_numpy(present) for name, (_, present) in features.items()},
    )
