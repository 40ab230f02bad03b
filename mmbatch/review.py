"""The review queue: the products that a person should look at, why, and which first.

Reasons, in the order in which a catalog team wants them:

    suspected_label    the given label is probably wrong: it is shown in the shop now, and the next training learns it
    modality_conflict  text and image are each sure, of different categories: one of them belongs to another product
    abstained          no category is sure enough to be published, so the product has none yet

A product has one row with all its reasons. Its priority is the highest over its reasons of

    2 + 1 - quality of the label                   suspected_label     2.5 to 3: the surer the models, the sooner
    1 + lower one of the two probabilities         modality_conflict   1.8 to 2
    confidence in the best category                abstained           0 to 1: nearly sure ones are quickly confirmed

so that it also sorts the products of each reason. A product that backed off to an inner node of the tree is decided: it
is in the queue for other reasons only. Shape letters: N products, R reasons.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.schema import MODALITIES, Modality

Reason = Literal["suspected_label", "modality_conflict", "abstained"]

REASONS: tuple[Reason, ...] = get_args(Reason)
"""The most urgent first."""

CONFIDENT = 0.8
"""Probability from which on a model of one modality counts as sure."""

REVIEW = "review"
"""`decision` of a prediction that abstains."""

READ = ["product_id", "category", "confidence", "decision", "model_categories", "model_probabilities", "bucket"]
"""Columns of `predictions` that the queue is made from."""

QUEUE = pa.schema(
    [
        ("product_id", pa.string()),
        ("title", pa.string()),  # null: none
        ("category", pa.string()),  # predicted, whatever was decided; null: split, to be reviewed
        ("label", pa.string()),  # given category; null: not labelled
        ("suggested_category", pa.string()),  # instead of `label`, by models that have not seen it; null: not suspected
        ("confidence", pa.float32()),  # probability of `category`, 0..1
        ("decision", pa.string()),  # accepted | backed_off | review
        ("reasons", pa.list_(pa.string())),  # of `REASONS`, at least one, the most urgent first
        ("priority", pa.float32()),  # 0..3, see the module's docstring
        ("text_category", pa.string()),  # of the best text model; null: there is none, or the product has no text
        ("text_probability", pa.float32()),
        ("image_category", pa.string()),  # likewise
        ("image_probability", pa.float32()),
        ("source", pa.string()),  # URI of the file that the product came from
        ("bucket", pa.int32()),
    ]
)
"""One row per product to be looked at."""

_REASON_SETS = pa.array(
    [[name for bit, name in enumerate(REASONS) if code >> bit & 1] for code in range(1 << len(REASONS))],
    pa.list_(pa.string()),
)
"""Every subset of the reasons; bit r of its place says whether the r-th is in it."""

_ORDER = [("priority", "descending"), ("product_id", "ascending")]


def flagged(predictions: pa.Table, suspects: pa.Table, *, best: Mapping[Modality, str]) -> pa.Table:
    """The products among some predictions that a person should look at: `QUEUE` but for what only the catalog knows.

    Args:
        predictions: columns `READ`.
        suspects: `product_id`, `suggested_category` and `quality` of the suspected labels among these products.
        best: the best model of each modality; a modality without one is in no conflict.
    """
    predictions = predictions.select(READ).combine_chunks()
    suspects = suspects.combine_chunks()
    place = _column(pc.index_in(predictions["product_id"], value_set=_column(suspects["product_id"])))
    said = {modality: _said_by(best.get(modality), predictions) for modality in MODALITIES}
    quality = _column(suspects["quality"]).take(place)
    score_NR = _scores(predictions, quality, said)
    columns: dict[str, pa.Array] = {
        **{name: predictions[name] for name in ("product_id", "category", "confidence", "decision")},
        "suggested_category": _column(suspects["suggested_category"]).take(place),
        "reasons": _REASON_SETS.take(pa.array((~np.isnan(score_NR)) @ (1 << np.arange(len(REASONS))))),
        "priority": pa.array(_priorities(score_NR), pa.float32()),
        "bucket": predictions["bucket"],
    }
    for modality, (category, probability) in said.items():
        columns |= {f"{modality}_category": category, f"{modality}_probability": probability}
    rows = pa.table(columns).filter(pa.array((~np.isnan(score_NR)).any(axis=1)))
    return rows.sort_by(_ORDER)


def described(rows: pa.Table, products: pa.Table) -> pa.Table:
    """Flagged products with what the catalog says of them: `QUEUE`; those that the catalog has lost are left out.

    Args:
        rows: of `flagged`.
        products: `product_id`, `title`, `label` (a category path as one string) and `source` of these products.
    """
    products = products.combine_chunks()
    place = _column(pc.index_in(rows["product_id"], value_set=_column(products["product_id"])))
    known = pc.is_valid(place)
    found = products.take(place.filter(known))
    columns = {name: rows[name].filter(known) for name in rows.column_names}
    columns |= {name: found[name] for name in ("title", "label", "source")}
    return pa.table(columns).select(QUEUE.names).cast(QUEUE)


@dataclass(kw_only=True)
class Tally:
    """How many products are in the queue, and of what kind."""

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Reason -> products that have it."""
    cells: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    """Predicted category and reason -> products."""
    categories: Counter[str | None] = field(default_factory=Counter)
    """Predicted category -> products."""
    sources: Counter[str | None] = field(default_factory=Counter)
    """Source -> products."""

    def add(self, rows: pa.Table) -> None:
        """Count some rows of the queue."""
        self.rows += rows.num_rows
        self.categories.update(_counts(rows["category"]))
        self.sources.update(_counts(rows["source"]))
        for reason, has in zip(REASONS, reasons_of(rows).T, strict=True):
            self.reasons[reason] += int(has.sum())
            of_reason = _counts(rows["category"].filter(pa.array(has)))
            self.cells.update({(category, reason): count for category, count in of_reason.items()})


def reasons_of(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows of a queue have which of `REASONS`, `[N, R]`."""
    joined = pc.binary_join(rows["reasons"], " ")
    return np.stack([pc.match_substring(joined, reason).to_numpy() for reason in REASONS], axis=1)


def first(rows: pa.Table, limit: int) -> pa.Table:
    """At most `limit` rows of a queue, by priority: each reason's most urgent ones up to an equal share, then others.

    So no reason hides the others, however many products have it.
    """
    rows = rows.sort_by(_ORDER)
    has_NR = reasons_of(rows)
    share = limit // max(1, int(has_NR.any(axis=0).sum()))
    sure = (has_NR & (has_NR.cumsum(axis=0) <= share)).any(axis=1)
    chosen = np.argsort(~sure, kind="stable")[:limit]
    return rows.take(pa.array(np.sort(chosen)))


def candidates(rows: pa.Table, limit: int) -> pa.Table:
    """The rows that `first` may choose whatever rows are added: the `limit` most urgent ones of each reason."""
    rows = rows.sort_by(_ORDER)
    has_NR = reasons_of(rows)
    return rows.filter(pa.array((has_NR & (has_NR.cumsum(axis=0) <= limit)).any(axis=1)))


def _said_by(model: str | None, predictions: pa.Table) -> tuple[pa.Array, pa.Array]:
    """A model's own best category and its probability; null where it says nothing."""
    if model is None:
        return pa.nulls(predictions.num_rows, pa.string()), pa.nulls(predictions.num_rows, pa.float32())
    names = (_column(predictions[name]) for name in ("model_categories", "model_probabilities"))
    category, probability = (pc.map_lookup(said, pa.scalar(model), "first") for said in names)
    return category, probability


def _scores(
    predictions: pa.Table, quality: pa.Array, said: Mapping[Modality, tuple[pa.Array, pa.Array]]
) -> npt.NDArray[np.float64]:
    """How sure each reason is of each product, 0..1, `[N, R]`; NaN where the product does not have it."""
    (image, image_sure), (text, text_sure) = said["image"], said["text"]
    weaker = np.minimum(_floats(image_sure), _floats(text_sure))
    differ = pc.fill_null(pc.not_equal(image, text), False).to_numpy(zero_copy_only=False)
    abstains = pc.fill_null(pc.equal(_column(predictions["decision"]), REVIEW), False).to_numpy(zero_copy_only=False)
    scores: Mapping[Reason, npt.NDArray[np.float64]] = {
        "suspected_label": 1 - _floats(quality),
        "modality_conflict": np.where(differ & (weaker >= CONFIDENT), weaker, np.nan),
        "abstained": np.where(abstains, np.nan_to_num(_floats(_column(predictions["confidence"]))), np.nan),
    }
    return np.stack([scores[reason] for reason in REASONS], axis=1)


def _priorities(score_NR: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above_R = np.arange(len(REASONS))[::-1]
    highest_N: npt.NDArray[np.float64] = np.where(np.isnan(score_NR), -1.0, score_NR + above_R).max(axis=1)
    return highest_N


def _column(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _floats(column: pa.Array) -> npt.NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _counts(column: pa.ChunkedArray) -> dict[str | None, int]:
    counted = pc.value_counts(column)
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
