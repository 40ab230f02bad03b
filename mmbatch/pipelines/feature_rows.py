"""Stored features of labelled products, as training reads them: unit by unit, so that they never have to fit in memory.

A unit is a few whole buckets whose vectors take about `UNIT_BYTES`; a set of one unit is read once and held.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.feature_store import FeatureStore
from mmbatch.joined import joined_store, read_joined
from mmbatch.models import Model, modalities_of
from mmbatch.pipelines.dealing import CPU, Inputs
from mmbatch.pipelines.extract import store_of
from mmbatch.pipelines.rows import Labels
from mmbatch.predictor import HEAD_MODEL, Features
from mmbatch.schema import SPLITS, Split
from mmbatch.workspace import Workspace

UNIT_BYTES = 512 << 20
"""Of vectors read at a time: 90,000 products of three encoders of 1,000 numbers."""

SCORED = 16_384
"""Products scored at a time: with 5,000 categories, 330 MB of float32."""


@dataclass(frozen=True)
class Unit:
    """Whole buckets that are read together."""

    buckets: tuple[int, ...]
    rows: int
    """Labelled products of known categories in them, with or without vectors."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Features and class codes int64 `[N]` of the rows of a unit."""

    features: Features
    codes: np.ndarray

    def inputs(self, chosen: np.ndarray, device: torch.device) -> Inputs:
        """Vectors float32 `[B, F]` and presence bool `[B]` of each encoder."""
        part = {name: (vectors[chosen], present[chosen]) for name, (vectors, present) in self.features.items()}
        return as_tensors(part, device)


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
    joined: Model | None = None
    """A head over sequences, whose joined embeddings are read along with the vectors."""
    _held: dict[Split, Vectors] = field(default_factory=dict, init=False, repr=False)

    @property
    def widths(self) -> dict[str, int]:
        """Numbers in a vector of each encoder."""
        return {model.name: int(model.card["width"]) for model in self.encoders}

    @property
    def scored(self) -> int:
        """Products that a head scores at a time."""
        return SCORED

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

    def sizes(self, split: Split) -> list[int]:
        """Rows of each unit of a split, at most."""
        return [unit.rows for unit in self.units(split)]

    def load(self, split: Split, unit: int) -> Vectors:
        """Read one unit."""
        if split in self._held:
            return self._held[split]
        units = self.units(split)
        found = self._read(split, units[unit])
        if len(units) == 1:
            self._held[split] = found
        return found

    def read(self, split: Split) -> Iterator[tuple[Features, np.ndarray]]:
        """Features and class codes int64 `[N]` of one split, a unit at a time."""
        for unit in range(len(self.units(split))):
            rows = self.load(split, unit)
            yield rows.features, rows.codes

    def vectors(self, encoder: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Vectors and class codes of the train rows that one encoder has a vector of, a unit at a time."""
        for features, codes in self.read("train"):
            vectors, present = features[encoder]
            yield vectors[present], codes[present]

    def _read(self, split: Split, unit: Unit) -> Vectors:
        parts = [self._bucket(bucket, split) for bucket in unit.buckets]
        features = {
            name: (
                np.concatenate([part[name][0] for part, _ in parts]),
                np.concatenate([part[name][1] for part, _ in parts]),
            )
            for name in parts[0][0]
        }
        return Vectors(features, np.concatenate([codes for _, codes in parts]))

    def _bucket(self, bucket: int, split: Split) -> tuple[Features, np.ndarray]:
        rows = Catalog(workspace=self.workspace).labels([bucket])
        rows = rows.filter(pc.equal(rows["split"], split))
        place = pc.index_in(rows["category"], value_set=pa.array(self.categories, pa.string()))
        rows, place = rows.filter(pc.is_valid(place)), pc.drop_null(place)
        features = {
            model.name: self._stores[model.name].read(rows[HASH_COLUMNS[model.card["modality"]]], buckets=[bucket])
            for model in self.encoders
        }
        if self.joined is not None:
            store, of = joined_store(self.workspace, self.joined), modalities_of(self.encoders)
            features[HEAD_MODEL] = read_joined(store, rows, features, of, buckets=[bucket])
        usable = np.any([present for _, present in features.values()], axis=0)
        kept = {name: (vectors[usable], present[usable]) for name, (vectors, present) in features.items()}
        return kept, place.to_numpy().astype(np.int64)[usable]

    @cached_property
    def _stores(self) -> dict[str, FeatureStore]:
        return {model.name: store_of(self.workspace, model) for model in self.encoders}

    @cached_property
    def _bytes_per_row(self) -> int:
        joined = self.joined.card["width"] if self.joined else 0
        return 2 * (sum(self.widths.values()) + int(joined))


def as_tensors(features: Features, device: torch.device = CPU) -> Inputs:
    """Vectors as float32 and presence, as a fusion head takes them."""
    return (
        {name: torch.from_numpy(vectors).to(device).float() for name, (vectors, _) in features.items()},
        {name: torch.from_numpy(present).to(device) for name, (_, present) in features.items()},
    )
