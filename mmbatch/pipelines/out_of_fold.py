"""Out-of-fold probabilities of labelled products, and the labels that they contradict.

Products are cut into folds; a linear probe per encoder and fold is fitted on the stored vectors of the products outside
of it and scores those inside. Vectors are read unit by unit, probabilities exist a part at a time. Fitting the probes
takes `FOLDS` times what the probes of a predictor take. An encoder that was fine-tuned has seen its train products of
every fold with their labels, which are the less contradicted for it.

Shape letters: N products, M encoders, C categories, K folds, F numbers of a vector.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import softmax

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.feature_store import FeatureStore
from mmbatch.fusion.probe import fit_probe, unit
from mmbatch.fusion.weighting import Weighting
from mmbatch.label_noise import find_suspects
from mmbatch.models import Model
from mmbatch.pipelines.extract import store_of
from mmbatch.pipelines.feature_rows import UNIT_BYTES
from mmbatch.pipelines.rows import path_of
from mmbatch.progress import Progress, say
from mmbatch.splits import content_groups
from mmbatch.workspace import Workspace

FOLDS = 5

SCORED = 4 << 20
"""Probabilities `[N, M, C]` computed at a time: 32 MB as float64, of which the joining holds a few copies."""

SUSPECTS = pa.schema(
    [
        ("product_id", pa.string()),
        ("suggested_category", pa.string()),  # what the models would give
        ("quality", pa.float32()),  # of the given label, 0..1, see `mmbatch.label_noise.Suspects`
        ("bucket", pa.int32()),
    ]
)
"""One row per labelled product whose label is probably wrong, the worst first."""

Probe = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Weight `[C, F]` and bias `[C]`."""

Probes = Mapping[tuple[str, int], Probe]
"""Encoder name and fold -> the probe fitted on all other folds."""


class Suspected(NamedTuple):
    """What was found among the labelled products."""

    rows: pa.Table
    """`SUSPECTS`."""
    judged: int
    """Labelled products that some probe could score."""
    unjudged: int
    """Those without a vector, or whose category has no product with one in any other fold."""


@dataclass(frozen=True, eq=False)
class FoldRows:
    """The labelled products of all splits, each with a category code and a fold, and their stored vectors."""

    workspace: Workspace
    encoders: Sequence[Model]
    categories: Sequence[str]
    """A class code is an index into it."""
    keys: pa.Table
    """`product_id`, `text_hash`, `image_hash`, `bucket`, `code` int64, `fold` int64; by bucket."""
    _held: dict[str, npt.NDArray[np.float16]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, workspace: Workspace, encoders: Sequence[Model]) -> Self | None:
        """All labelled products of a workspace; None where they are not of two categories at least."""
        rows = Catalog(workspace=workspace).labels()
        categories = sorted(pc.unique(rows["category"]).to_pylist(), key=path_of)
        if len(categories) < 2:
            return None
        code = pc.index_in(rows["category"], value_set=pa.array(categories, pa.string())).cast(pa.int64())
        keys = rows.select(["product_id", *HASH_COLUMNS.values(), "bucket"]).append_column("code", code)
        return cls(workspace, tuple(encoders), categories, with_folds(keys, seed=workspace.settings.seed))

    @cached_property
    def codes(self) -> npt.NDArray[np.int64]:
        """Code of each product's given category, `[N]`."""
        return np.asarray(self.keys["code"].to_numpy())

    @cached_property
    def folds(self) -> npt.NDArray[np.int64]:
        """Fold of each product, `[N]`."""
        return np.asarray(self.keys["fold"].to_numpy())

    @cached_property
    def units(self) -> list[slice]:
        """Rows of a few whole buckets each, whose vectors take about `UNIT_BYTES`."""
        most = max(1, UNIT_BYTES // (2 * sum(model.card["width"] for model in self.encoders)))
        units: list[slice] = []
        for _, start, stop in self._buckets(slice(0, self.keys.num_rows)):
            if units and stop - units[-1].start <= most:
                units[-1] = slice(units[-1].start, stop)
            else:
                units.append(slice(start, stop))
        return units

    @cached_property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which product has a stored vector of which encoder, `[N, M]`."""
        return np.stack([self._present(model) for model in self.encoders], axis=1)

    @cached_property
    def scored(self) -> npt.NDArray[np.bool_]:
        """Which product which encoder's probe can score, `[N, M]`.

        One that has a vector, and whose given category the probe knows from a product outside of the fold.
        """
        columns = []
        for present_N in self.present.T:
            seen_CK = np.zeros((len(self.categories), FOLDS), np.int64)
            np.add.at(seen_CK, (self.codes[present_N], self.folds[present_N]), 1)
            outside_CK = seen_CK.sum(axis=1, keepdims=True) - seen_CK
            columns.append(present_N & (outside_CK[self.codes, self.folds] > 0))
        return np.stack(columns, axis=1)

    @cached_property
    def judged(self) -> npt.NDArray[np.int64]:
        """Numbers of the products that at least one probe can score."""
        return np.flatnonzero(self.scored.any(axis=1))

    def fit(self, tell: Callable[[str], None] = say) -> dict[tuple[str, int], Probe]:
        """The probes that score some product."""
        wanted = [
            (at, fold)
            for at in range(len(self.encoders))
            for fold in np.unique(self.folds[self.scored[:, at]]).tolist()
        ]
        progress, probes = Progress("labels", len(wanted), "probes", tell=tell), {}
        for at, fold in wanted:
            model = self.encoders[at]
            probes[model.name, fold] = fit_probe(
                partial(self._outside, at, fold), width=model.card["width"], classes=len(self.categories)
            )
            progress.advance(1)
        return probes

    def probabilities(self, probes: Probes) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        """Probabilities `[N, C]` of the judged products and the codes of their given categories, a part at a time.

        Each product's are of the probes that have not seen it, averaged in log space over the encoders.
        """
        rows = max(1, SCORED // (len(self.encoders) * len(self.categories)))
        for unit_rows in self.units:
            first, last = np.searchsorted(self.judged, [unit_rows.start, unit_rows.stop])
            if first == last:
                continue
            vectors = {model.name: self._vectors(model, unit_rows) for model in self.encoders}
            for start in range(first, last, rows):
                chosen = self.judged[start : min(start + rows, last)]
                parts = {name: held[chosen - unit_rows.start] for name, held in vectors.items()}
                yield self._joined(probes, chosen, parts), self.codes[chosen]

    def _joined(
        self, probes: Probes, chosen: npt.NDArray[np.int64], vectors: Mapping[str, npt.NDArray[np.float16]]
    ) -> npt.NDArray[np.float32]:
        shape = (len(chosen), len(self.encoders), len(self.categories))
        scores_NMC, scored_NM, fold_N = np.full(shape, np.nan, np.float32), self.scored[chosen], self.folds[chosen]
        for at, model in enumerate(self.encoders):
            for fold in np.unique(fold_N[scored_NM[:, at]]).tolist():
                inside = scored_NM[:, at] & (fold_N == fold)
                weight, bias = probes[model.name, fold]
                scores_NMC[inside, at] = softmax(unit(vectors[model.name][inside]) @ weight.T + bias, axis=1)
        equal = Weighting(weights=(1 / shape[1],) * shape[1], temperature=1.0)
        return np.exp(equal.log_probabilities(scores_NMC)).astype(np.float32)

    def _outside(self, at: int, fold: int) -> Iterator[tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]]:
        """Vectors and codes of the products outside of a fold that an encoder has a vector of, for `fit_probe`."""
        rows = max(1, SCORED // len(self.categories))
        for unit_rows in self.units:
            taken = self.present[unit_rows, at] & (self.folds[unit_rows] != fold)
            chosen = np.flatnonzero(taken)
            vectors = self._vectors(self.encoders[at], unit_rows)
            for start in range(0, len(chosen), rows):
                part = chosen[start : start + rows]
                yield vectors[part], self.codes[unit_rows.start + part]

    def _vectors(self, model: Model, rows: slice) -> npt.NDArray[np.float16]:
        """One encoder's vectors of a unit, `[N, F]`; those of the only unit are read once and held."""
        if model.name in self._held:
            return self._held[model.name]
        hashes, store = self.keys[HASH_COLUMNS[model.card["modality"]]], self._stores[model.name]
        found = [
            store.read(hashes.slice(start, stop - start), buckets=[bucket])[0]
            for bucket, start, stop in self._buckets(rows)
        ]
        vectors: npt.NDArray[np.float16] = np.concatenate(found)
        if len(self.units) == 1:
            self._held[model.name] = vectors
        return vectors

    def _present(self, model: Model) -> npt.NDArray[np.bool_]:
        hashes, table = self.keys[HASH_COLUMNS[model.card["modality"]]], self._stores[model.name].table.snapshot()
        found = []
        for bucket, start, stop in self._buckets(slice(0, self.keys.num_rows)):
            stored = table.read(["content_hash"], buckets=[bucket])["content_hash"].combine_chunks()
            found.append(pc.is_in(hashes.slice(start, stop - start), value_set=stored, skip_nulls=True).to_numpy())
        return np.concatenate(found)

    def _buckets(self, rows: slice) -> list[tuple[int, int, int]]:
        """Each bucket of some rows, with where it starts and ends among all."""
        buckets = self.keys["bucket"].to_numpy()[rows]
        starts = np.flatnonzero(np.diff(buckets, prepend=-1))
        stops = np.append(starts[1:], len(buckets))
        places = zip(buckets[starts].tolist(), starts.tolist(), stops.tolist(), strict=True)
        return [(bucket, rows.start + start, rows.start + stop) for bucket, start, stop in places]

    @cached_property
    def _stores(self) -> dict[str, FeatureStore]:
        return {model.name: store_of(self.workspace, model) for model in self.encoders}


def with_folds(keys: pa.Table, *, seed: int) -> pa.Table:
    """Keys of products with their `fold`, 0 to `FOLDS` - 1: by a seeded hash of product ids, in any order of the rows.

    Products that share their text or their image are in one fold (`mmbatch.splits.content_groups`).
    """
    ids = keys["product_id"].to_numpy()
    order = pd.Series(pd.util.hash_array(ids, hash_key=f"{seed:016d}"[-16:], categorize=False))
    first = order.groupby(content_groups(keys["text_hash"], keys["image_hash"])).transform("min")
    return keys.append_column("fold", pa.array((first.to_numpy() % np.uint64(FOLDS)).astype(np.int64)))


def suspected_labels(rows: FoldRows, tell: Callable[[str], None] = say) -> Suspected:
    """The labels that the models contradict; runs in one process, and says through `tell` how far it is.

    A product whose category has no other product outside of its fold is not judged: no probe can know that category.
    """
    judged = len(rows.judged)
    if not judged:
        return Suspected(SUSPECTS.empty_table(), 0, len(rows.codes))
    found = find_suspects(partial(rows.probabilities, rows.fit(tell)), classes=len(rows.categories))
    keys = rows.keys.take(pa.array(rows.judged[found.rows]))
    columns = {
        "product_id": keys["product_id"],
        "suggested_category": pa.array(rows.categories, pa.string()).take(pa.array(found.suggested)),
        "quality": found.quality,
        "bucket": keys["bucket"],
    }
    return Suspected(pa.table(columns, schema=SUSPECTS), judged, len(rows.codes) - judged)
