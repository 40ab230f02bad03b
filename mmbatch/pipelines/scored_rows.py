"""Labelled products with the probabilities that the models below the late fusion give them, a part at a time.

Shape letters: N products, M models, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmbatch.pipelines.feature_rows import FeatureRows
from mmbatch.predictor import Scorer
from mmbatch.schema import Split

PART_VALUES = 1 << 24
"""Probabilities of a part: 64 MiB of float32, 4,000 products of 4 models and 1,000 classes."""

SAMPLE_VALUES = 1 << 25
"""Probabilities held at a time: what has a handful of parameters is fitted on so many."""

Scored = tuple[np.ndarray, np.ndarray]
"""Probabilities float32 `[N, M, C]`, NaN where a model has nothing to score, and class codes int64 `[N]`."""


@dataclass(frozen=True)
class ScoredRows:
    """The products of each split that have at least one vector."""

    rows: FeatureRows
    scorer: Scorer

    @property
    def values(self) -> int:
        """Probabilities of one product."""
        return len(self.scorer.models) * len(self.rows.categories)

    def parts(self, split: Split, *, worker: int = 0, workers: int = 1) -> Iterator[Scored]:
        """One worker's part of a split, in an order that is always the same."""
        step = max(1, PART_VALUES // self.values)
        for unit in range(worker, len(self.rows.units(split)), workers):
            found = self.rows.load(split, unit)
            for start in range(0, len(found.codes), step):
                part = slice(start, start + step)
                features = {name: (vectors[part], there[part]) for name, (vectors, there) in found.features.items()}
                yield self.scorer.scores(features), found.codes[part]

    @property
    def held(self) -> int:
        """Products that `sample` holds, at most."""
        return max(2, SAMPLE_VALUES // self.values)

    def fits(self, split: Split) -> bool:
        """Whether `sample` has the whole split."""
        return sum(self.rows.sizes(split)) <= self.held

    def sample(self, split: Split) -> Scored:
        """As many products of a split as fit; buckets are by a hash of the ids, so the first ones are any ones."""
        left = self.held
        scores = [np.empty((0, len(self.scorer.models), len(self.rows.categories)), np.float32)]
        codes = [np.empty(0, np.int64)]
        for part, said in self.parts(split):
            scores.append(part[:left])
            codes.append(said[:left])
            left -= len(codes[-1])
            if not left:
                break
        return np.concatenate(scores), np.concatenate(codes)
