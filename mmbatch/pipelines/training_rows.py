"""A training worker's share of the labelled rows, read bucket by bucket and batched by length."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray.train.torch
import torch
from torch import Tensor

from mmbatch.catalog import Catalog
from mmbatch.encoders import Encoder, collate_all, to_tensors
from mmbatch.pipelines.rows import by_bucket, training_labels
from mmbatch.training import Augmentation

LENGTH_POOL = 20
"""Batches whose rows are sorted by length together: little padding, and still a random order."""


class TrainingRows:
    """A worker's share of the rows: the same number of steps on every rank, read bucket by bucket."""

    def __init__(self, config: Mapping[str, Any], encoder: Encoder, *, rank: int, world: int) -> None:
        self.catalog = Catalog(workspace=config["workspace"])
        self.seed, self.rank, self.world = config["workspace"].settings.seed, rank, world
        self.encoder, self.modality = encoder, config["modality"]
        self.device = ray.train.torch.get_device()
        rows = training_labels(self.catalog).with_modality(self.modality)
        self.train, self.fusion = by_bucket(rows, "train"), by_bucket(rows, "fusion")

    def steps(self, batch: int) -> int:
        """Optimiser steps of one epoch."""
        return sum(math.ceil(math.ceil(len(rows) / self.world) / batch) for _, rows in self.train)

    def train_batches(self, batch: int, epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Shuffled batches of this rank; a bucket's rows wrap around so that no rank has fewer steps."""
        rng = np.random.default_rng([self.seed, epoch, self.rank])
        for index in np.random.default_rng([self.seed, epoch]).permutation(len(self.train)):
            bucket, rows = self.train[index]
            share = math.ceil(len(rows) / self.world)
            mine = rows.iloc[(np.arange(share) * self.world + self.rank) % len(rows)]
            content = self._content(bucket, mine)
            for chosen in length_batches(self.encoder.lengths(content), batch, rng):
                yield self._prepare(content, mine, chosen, rng)

    def fusion_batches(self, batch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Every fusion row of this rank, once."""
        for bucket, rows in self.fusion:
            mine = rows.iloc[self.rank :: self.world]
            content = self._content(bucket, mine)
            for start in range(0, len(mine), batch):
                yield self._prepare(content, mine, np.arange(start, min(start + batch, len(mine))), None)

    def _content(self, bucket: int, rows: pd.DataFrame) -> pa.Table:
        return self.catalog.content(self.modality, bucket, pa.array(rows["content_hash"], pa.string()))

    def _prepare(
        self, content: pa.Table, rows: pd.DataFrame, chosen: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        prepared = self.encoder.prepare(
            content.take(pa.array(chosen)),
            augmentation=Augmentation() if rng else None,
            seed=int(rng.integers(2**32)) if rng else 0,
        )
        targets = torch.from_numpy(rows["code"].to_numpy()[chosen[prepared.good]])
        return to_tensors(collate_all(self.encoder, prepared.inputs), self.device), targets.to(self.device)


def length_batches(lengths: np.ndarray, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers of each batch: random pools of `LENGTH_POOL` batches, sorted by length within, in random order."""
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), batch * LENGTH_POOL):
        pool = order[start : start + batch * LENGTH_POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + batch] for at in range(0, len(pool), batch)]
    return [batches[i] for i in rng.permutation(len(batches))]
