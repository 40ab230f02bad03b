"""Which rows go through which step of training: the same for every number of workers, and known before any is read.

An epoch is a sequence of units (a few whole buckets each, so that every bucket is read once an epoch) and a unit a
sequence of global batches; worker r of W takes every W-th row of a batch, from row r on. Everything follows from the
seed, the epoch and the unit, so a position in the data is two numbers: the epoch and the step.

Shapes: N rows of one split, C classes.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

LENGTH_POOL = 100
"""Batches whose rows are sorted by length together: about 1 % of the tokens are padding, in random order."""


@dataclass(frozen=True)
class SplitRows:
    """The labelled rows of one split, ordered by bucket: all that planning needs, 40 bytes a row."""

    buckets: np.ndarray
    """int32 `[N]`, ascending."""
    hashes: np.ndarray
    """S32 `[N]`: content hashes in hex."""
    codes: np.ndarray
    """int32 `[N]`: class codes, 0 to C - 1."""

    @classmethod
    def of(cls, rows: pd.DataFrame, split: str) -> "SplitRows":
        """From rows with `bucket`, `content_hash`, `code` and `split`."""
        chosen = rows[rows["split"] == split].sort_values(["bucket", "product_id"])
        return cls(
            chosen["bucket"].to_numpy(np.int32),
            chosen["content_hash"].to_numpy().astype("S32"),
            chosen["code"].to_numpy(np.int32),
        )

    def __len__(self) -> int:
        return len(self.codes)

    def class_weights(self, classes: int) -> np.ndarray:
        """float32 `[C]`: rows / (classes that occur x rows of the class), so that its mean over the rows is 1."""
        counts = np.bincount(self.codes, minlength=classes)
        with np.errstate(divide="ignore"):
            weights = len(self) / (np.count_nonzero(counts) * counts)
        return np.where(counts > 0, weights, 0.0).astype(np.float32)


@dataclass(frozen=True)
class TrainingPlan:
    """The order of one split's rows."""

    rows: SplitRows
    lengths: np.ndarray
    """int64 `[N]`: what each row costs the network (`Encoder.sizes`)."""
    batch: int
    """Rows per step, over all workers."""
    seed: int
    shuffled: bool
    """False for rows that are only scored: every row once, by length."""
    sampling: Literal["natural", "balanced"] = "natural"

    @cached_property
    def units(self) -> list[slice]:
        """Rows of each unit: whole buckets, and no fewer rows than a pool holds."""
        starts = np.flatnonzero(np.diff(self.rows.buckets, prepend=-1)).tolist()
        if not starts:
            return []
        cuts = [0]
        for start in starts:
            if start - cuts[-1] >= LENGTH_POOL * self.batch and len(self.rows) - start >= LENGTH_POOL * self.batch:
                cuts.append(start)
        return [slice(*ends) for ends in zip(cuts, [*cuts[1:], len(self.rows)], strict=True)]

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return sum(self.steps_of(unit) for unit in range(len(self.units)))

    def steps_of(self, unit: int) -> int:
        """Global batches of one unit."""
        rows = self.units[unit]
        return math.ceil(int(rows.stop - rows.start) / self.batch)

    def order(self, epoch: int) -> list[int]:
        """The units of an epoch in their order."""
        if not self.shuffled:
            return list(range(len(self.units)))
        order: list[int] = np.random.default_rng([self.seed, epoch]).permutation(len(self.units)).tolist()
        return order

    def batches(self, epoch: int, unit: int) -> list[np.ndarray]:
        """Row numbers of each global batch of a unit, int64."""
        at = np.arange(self.units[unit].start, self.units[unit].stop)
        if not self.shuffled:
            return _cut(at[np.argsort(self.lengths[at], kind="stable")], self.batch)
        rng = np.random.default_rng([self.seed, epoch, unit])
        at = self._drawn(at, rng)
        pools = _cut(at, self.batch * LENGTH_POOL)
        batches = [
            batch for pool in pools for batch in _cut(pool[np.argsort(self.lengths[pool], kind="stable")], self.batch)
        ]
        return [batches[number] for number in rng.permutation(len(batches))]

    def _drawn(self, at: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The rows of a unit in random order; balanced, as many drawn with replacement by the weight of their class."""
        if self.sampling == "natural":
            return rng.permutation(at)
        weights = self._class_weights[self.rows.codes[at]].astype(np.float64)
        return rng.choice(at, size=len(at), p=weights / weights.sum())

    @cached_property
    def _class_weights(self) -> np.ndarray:
        return self.rows.class_weights(int(self.rows.codes.max()) + 1)

    def padding(self) -> float:
        """Padded share of the first epoch's tokens, 0 to 1, each batch as long as its longest row."""
        batches = [self.lengths[rows] for unit in self.order(0) for rows in self.batches(0, unit)]
        padded = sum(len(lengths) * int(lengths.max()) for lengths in batches)
        return 1.0 - sum(int(lengths.sum()) for lengths in batches) / max(1, padded)


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
