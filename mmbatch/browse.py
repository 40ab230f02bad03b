"""Browsing: what is published of a workspace's products, read by bucket and column, never whole.

A person looks at a screenful of products at a time, so a search stops at the bucket that fills it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.changes import Changes
from mmbatch.corrections import Corrections
from mmbatch.predictions import Predictions
from mmbatch.schema import Split, bucket_of
from mmbatch.tables import Snapshot
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

Labels = Literal["any", "labelled", "unlabelled", "wrong"]
"""Which products: all, those with a label, those without, or those whose label is not the predicted category."""

_PUBLISHED = [
    "product_id", "category", "confidence", "decision", "decided_category", "top_categories", "top_probabilities",
    "model_categories", "model_probabilities", "modality_text", "modality_image", "modality_fused", "run_id", "bucket",
]  # fmt: skip


class State(NamedTuple):
    """Versions of all that browsing reads: what was computed of one state holds for it for ever."""

    predictions: int
    catalog: int
    corrections: int
    taxonomy: str
    changes: int

    @classmethod
    def of(cls, workspace: Workspace) -> Self:
        """As it is now; -1: there is no such table."""
        return cls(
            predictions=Predictions(workspace=workspace).table.version(),
            catalog=Catalog(workspace=workspace).table.version(),
            corrections=Corrections(workspace=workspace).version(),
            taxonomy=TaxonomyHistory.read(workspace).name,
            changes=Changes(workspace=workspace).table.version(),
        )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which products a person asks for."""

    words: str = ""
    """The id of a product, or words of its title; empty: any."""
    decision: str | None = None
    category: str | None = None
    """Predicted."""
    label: str | None = None
    """Given, by its present name."""
    labels: Labels = "any"
    split: Split | None = None
    """Of labelled products."""
    least: float = 0.0
    """Of the confidence."""
    most: float = 1.0

    @property
    def reads_labels(self) -> bool:
        """Whether it depends on labels."""
        return self.label is not None or self.labels != "any" or self.split is not None

    def filter(self) -> pc.Expression:
        """What of it `predictions` alone can say."""
        confidence = pc.field("confidence")
        terms = [(confidence >= self.least - 1e-6) & (confidence <= self.most + 1e-6)]
        if self.decision is not None:
            terms.append(pc.field("decision") == self.decision)
        if self.category is not None:
            terms.append(pc.field("category") == self.category)
        return reduce(and_, terms)


class Place(NamedTuple):
    """Where a search goes on."""

    bucket: int = 0
    row: int = 0
    """Matching rows of the bucket that were shown already."""


class Found(NamedTuple):
    """A screenful of products."""

    rows: pa.Table
    """Published columns, and `title` and `label` (null: none)."""
    next: Place | None
    """None: these were the last."""


@dataclass(frozen=True, kw_only=True)
class Browser:
    """The products of a workspace in one state."""

    catalog: Catalog
    published: Snapshot
    history: TaxonomyHistory

    @classmethod
    def open(cls, workspace: Workspace) -> Self:
        """As it is now."""
        return cls(
            catalog=Catalog(workspace=workspace).pinned(),
            published=Predictions(workspace=workspace).table.snapshot(),
            history=TaxonomyHistory.read(workspace),
        )

    @property
    def buckets(self) -> int:
        """Of the workspace."""
        return self.catalog.workspace.settings.buckets

    def find(self, wanted: Wanted, *, start: Place | None = None, limit: int = 24) -> Found:
        """The next products that are wanted, bucket by bucket, within a bucket by id."""
        if named := self.product(wanted.words):
            return Found(named, None)
        place, parts, rows = start or Place(), [self._described(self._empty())], 0
        for bucket in range(place.bucket, self.buckets):
            done = place.row if bucket == place.bucket else 0
            found = self._matching(wanted, bucket)
            part = found.slice(done, limit - rows)
            if part.num_rows:
                parts.append(self._described(part))
            rows += part.num_rows
            if rows == limit:
                return Found(pa.concat_tables(parts), Place(bucket, done + part.num_rows))
        return Found(pa.concat_tables(parts), None)

    def product(self, product_id: str) -> pa.Table | None:
        """One product by its id, as `Found.rows`; None: nothing is published of it."""
        bucket = int(bucket_of([product_id], self.buckets)[0])
        rows = self.published.read(_PUBLISHED, buckets=[bucket], filters=pc.field("product_id") == product_id)
        return self._described(rows) if rows.num_rows else None

    def overview(self) -> pa.Table:
        """`category`, `decision`, `products` and mean `confidence` of all that is published, most products first."""
        parts = [self._counted(bucket) for bucket in range(self.buckets)]
        sums = pa.concat_tables(parts).group_by(["category", "decision"])
        found = sums.aggregate([("confidence_count", "sum"), ("confidence_sum", "sum")])
        products = found["confidence_count_sum"]
        mean = pc.divide(found["confidence_sum_sum"], pc.cast(products, pa.float64()))
        rows = pa.table([found["category"], found["decision"], products, mean], names=_OVERVIEW)
        return rows.sort_by([("products", "descending"), ("category", "ascending"), ("decision", "ascending")])

    def confusion(self, split: Split | None) -> pa.Table:
        """`label`, `category` and `products` of the labelled products of a split (None: of all that have a label)."""
        counted = []
        for bucket in range(self.buckets):
            rows = self._labelled(self.published.read(["product_id", "category"], buckets=[bucket]), bucket)
            chosen = pc.is_valid(rows["label"]) if split is None else pc.equal(rows["split"], split)
            rows = rows.filter(pc.fill_null(pc.and_(chosen, pc.is_valid(rows["label"])), False))
            counted.append(rows.group_by(["label", "category"]).aggregate([([], "count_all")]))
        whole = pa.concat_tables(counted).group_by(["label", "category"]).aggregate([("count_all", "sum")])
        return whole.rename_columns(["label", "category", "products"]).sort_by([("products", "descending")])

    def changes(self, run_id: str, reason: str | None, *, limit: int = 100) -> pa.Table:
        """Changes that a run published, for one reason or any; at most `limit`, those of the first buckets."""
        at = Changes(workspace=self.catalog.workspace).table.snapshot()
        chosen = pc.field("run_id") == run_id
        chosen = chosen if reason is None else chosen & (pc.field("reason") == reason)
        return first_rows(lambda bucket: at.read(buckets=[bucket], filters=chosen), self.buckets, limit)

    def _counted(self, bucket: int) -> pa.Table:
        rows = self.published.read(["category", "decision", "confidence"], buckets=[bucket])
        sums: list[tuple[str, str]] = [("confidence", "count"), ("confidence", "sum")]
        return rows.group_by(["category", "decision"]).aggregate(sums)

    def _empty(self) -> pa.Table:
        return self.published.read(_PUBLISHED, buckets=[])

    def _matching(self, wanted: Wanted, bucket: int) -> pa.Table:
        """Rows of a bucket that are wanted, `_PUBLISHED`, by id."""
        chosen = wanted.filter()
        if wanted.words.strip():
            titled = self.catalog.products().read(["product_id"], buckets=[bucket], filters=_titled(wanted.words))
            chosen = chosen & pc.field("product_id").isin(titled["product_id"].combine_chunks())
        rows = self.published.read(_PUBLISHED, buckets=[bucket], filters=chosen)
        if wanted.reads_labels and rows.num_rows:
            rows = rows.filter(_label_matches(wanted, self._labelled(rows, bucket)))
        return rows.sort_by("product_id")

    def _labelled(self, rows: pa.Table, bucket: int) -> pa.Table:
        """The rows with `label`, by its present name, and `split`."""
        labels = self.catalog.labels([bucket])
        place = pc.index_in(rows["product_id"], value_set=labels["product_id"].combine_chunks()).combine_chunks()
        named = self.history.current_names(labels["category"]).combine_chunks()
        rows = rows.append_column("label", named.take(place))
        return rows.append_column("split", labels["split"].combine_chunks().take(place))

    def _described(self, rows: pa.Table) -> pa.Table:
        """Rows of one bucket with `label`, `split`, `title`, `description`."""
        bucket = rows["bucket"][0].as_py() if rows.num_rows else 0
        chosen = pc.field("product_id").isin(rows["product_id"].combine_chunks())
        texts = ["title", "description"]
        products = self.catalog.products().read(["product_id", *texts], buckets=[bucket], filters=chosen)
        place = pc.index_in(rows["product_id"], value_set=products["product_id"].combine_chunks()).combine_chunks()
        rows = self._labelled(rows, bucket)
        for name in texts:
            rows = rows.append_column(name, products[name].combine_chunks().take(place))
        return rows


_OVERVIEW = ["category", "decision", "products", "confidence"]


def first_rows(read: Callable[[int], pa.Table], buckets: int, limit: int) -> pa.Table:
    """The first rows of what `read` says of the buckets, one after the other."""
    parts, rows = [], 0
    for bucket in range(buckets):
        parts.append(read(bucket).slice(0, limit - rows))
        rows += parts[-1].num_rows
        if rows >= limit:
            break
    return pa.concat_tables(parts)


def _titled(words: str) -> pc.Expression:
    """Titles that have all of these words, in either case."""
    return reduce(and_, (pc.match_substring(pc.field("title"), word, ignore_case=True) for word in words.split()))


def _label_matches(wanted: Wanted, rows: pa.Table) -> pa.Array:
    """Which rows (`label`, `split`, `category`) have a label that is wanted."""
    label, has = rows["label"], pc.is_valid(rows["label"])
    matches = {
        "any": np.ones(rows.num_rows, bool),
        "labelled": np.asarray(has),
        "unlabelled": ~np.asarray(has),
        "wrong": np.asarray(pc.fill_null(pc.not_equal(label, rows["category"]), False)),
    }[wanted.labels]
    if wanted.label is not None:
        matches = matches & np.asarray(pc.fill_null(pc.equal(label, wanted.label), False))
    if wanted.split is not None:
        matches = matches & np.asarray(pc.fill_null(pc.equal(rows["split"], wanted.split), False))
    return pa.array(matches)
