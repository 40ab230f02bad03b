"""Why categories change: what is published and what is to be, compared product by product.

A change has one reason, the first of these that holds:

    new, removed                the product has no prediction before, or none afterwards
    taxonomy                    edits of the tree give the category another name, and nothing else happened to it
    title, description, image   this content differs from what the prediction before was made from
    encoder, head, taxonomy     the predictor has other encoders, is another one, or decides in another tree
    recomputed                  nothing differs: a vector was computed again, and its last bit decided

All that differ stand in `differing`. A text or an image that could not be used before, or cannot any more, differs too.
Shape letter: N products.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.review import REVIEW
from mmbatch.tables import Table
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

Reason = Literal[
    "new", "removed", "title", "description", "image", "encoder", "head", "taxonomy", "recomputed", "rollback"
]
REASONS: tuple[Reason, ...] = get_args(Reason)

DIFFERING: tuple[Reason, ...] = ("title", "description", "image", "encoder", "head", "taxonomy")
"""What a prediction is made from, in the order in which it is given as a reason."""

COMPARED = [
    "product_id", "category", "decided_category", "decision", "confidence", "predictor", "text_hash", "title_hash",
    "description_hash", "image_hash",
]  # fmt: skip
"""Columns of `predictions` that a comparison reads."""

_SETS = pa.array(
    [[name for bit, name in enumerate(DIFFERING) if code >> bit & 1] for code in range(1 << len(DIFFERING))],
    pa.list_(pa.string()),
)
"""Every subset of `DIFFERING`; bit d of its place says whether the d-th is in it."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What the identities of predictors mean; pickles to workers."""

    encoders: Mapping[str, Sequence[str]]
    """`name@fingerprint` of each stored predictor -> those of its encoders."""
    history: TaxonomyHistory

    def parts(self, identity: str | None) -> tuple[str, str, str]:
        """Predictor, version of the taxonomy and encoders of a `predictions.predictor`, as comparable texts."""
        predictor, _, taxonomy = (identity or "").partition("+")
        return predictor, taxonomy, ",".join(sorted(self.encoders.get(predictor, [f"of {predictor}"])))


class Compared(NamedTuple):
    """What differs between two states of one bucket."""

    changes: pa.Table
    """`schema.CHANGES`: products whose category, or what was decided, is another one."""
    changed: Bools
    """Which of them have another category than before; neither new, removed, nor renamed by edits of the tree `[N]`."""


class _Pair(NamedTuple):
    """Two states of the same products; null where a product is not in one."""

    before: pa.Table
    after: pa.Table

    def differs(self, name: str) -> Bools:
        return _differ(self.before[name], self.after[name])

    def present(self, side: pa.Table) -> Bools:
        return np.asarray(side["product_id"].is_valid())


def compare(
    before: pa.Table, after: pa.Table, *, lineage: Lineage, run_id: str, bucket: int, rollback: bool = False
) -> Compared:
    """Compare two states of one bucket of `predictions`, columns `COMPARED`; of a rollback that is the only reason."""
    ids = pc.unique(pa.concat_arrays([*before["product_id"].chunks, *after["product_id"].chunks]))
    pair = _Pair(_aligned(before, ids), _aligned(after, ids))
    was, stays = pair.present(pair.before), pair.present(pair.after)
    both, moved = was & stays, pair.differs("category")
    differing = {name: found & both for name, found in _differing(pair, lineage).items()}
    renamed = both & moved & differing["taxonomy"] & _as_renamed(pair, lineage.history)
    reasons: dict[Reason, Bools] = {"new": ~was, "removed": ~stays, "taxonomy": renamed}
    order = [*reasons.items(), *differing.items()]
    reason = np.select([found for _, found in order], [REASONS.index(name) for name, _ in order], _RECOMPUTED)
    if rollback:
        reason[:] = REASONS.index("rollback")
    code = sum((found.astype(np.int64) << bit for bit, found in enumerate(differing.values())), np.zeros(len(ids), int))
    columns = {
        "product_id": ids,
        **_both_sides(pair),
        "reason": pa.array(REASONS).take(pa.array(reason)),
        "differing": _SETS.take(pa.array(code)),
        "run_id": pa.repeat(run_id, len(ids)),
        "bucket": pa.repeat(pa.scalar(bucket, pa.int32()), len(ids)),
    }
    told = ~both | moved | pair.differs("decided_category")
    rows = pa.table(columns).select(schema.CHANGES.names).cast(schema.CHANGES)
    return Compared(rows.filter(pa.array(told)), (both & moved & ~renamed)[told])


_RECOMPUTED = REASONS.index("recomputed")


@dataclass(kw_only=True)
class Tally:
    """Counts of a comparison, bucket by bucket."""

    counts: Counter[str] = field(default_factory=Counter)
    """`products_before`, `products_after`, `review_before`, `review_after`, `changed`, `changes`; and of the last
    rollback the changes it took back, `taken_back`, of which `returning` come again."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Reason -> changes."""
    moves: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)
    """Category before and after -> products, of those that have another one."""
    before: Counter[str | None] = field(default_factory=Counter)
    """Category -> products before."""
    after: Counter[str | None] = field(default_factory=Counter)
    left: Counter[str | None] = field(default_factory=Counter)
    """Category -> products that have another one now; neither removed nor renamed."""

    @classmethod
    def of(cls, before: pa.Table, after: pa.Table, compared: Compared | None = None) -> Self:
        """Counts of one bucket, columns `category` and `decision`; None: nothing differs."""
        changes, which = compared or (schema.CHANGES.empty_table(), np.zeros(0, bool))
        changed = changes.filter(pa.array(which))
        moved = changes.filter(pa.array(_differ(changes["category_before"], changes["category_after"])))
        return cls(
            counts=Counter(
                products_before=before.num_rows,
                products_after=after.num_rows,
                review_before=_reviewed(before),
                review_after=_reviewed(after),
                changed=changed.num_rows,
                changes=changes.num_rows,
            ),
            reasons=_counted(changes, "reason"),
            moves=_pairs(moved),
            before=_counted(before, "category"),
            after=_counted(after, "category"),
            left=_counted(changed, "category_before"),
        )

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps({name: list(getattr(self, name).items()) for name in self.__dataclass_fields__})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        fields = json.loads(text).items()
        return cls(**{name: Counter({_key(key): count for key, count in items}) for name, items in fields})

    def add(self, other: "Tally") -> None:
        """Take the counts of another bucket."""
        for name in self.__dataclass_fields__:
            getattr(self, name).update(getattr(other, name))


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The table of what every publication changed."""

    workspace: Workspace

    @cached_property
    def table(self) -> Table:
        """One row per product and publication that changed it."""
        return self.workspace.table("changes", schema=schema.CHANGES)


def returning(before: pa.Table, after: pa.Table, taken_back: pa.Table) -> Counter[str]:
    """Of the categories that a rollback took back from products (`taken_back`), those that come again.

    Columns of all three: `product_id`, `category`; `before` is what the rollback has restored.
    """
    ids = taken_back["product_id"]
    was, comes = (_aligned(rows, ids.combine_chunks())["category"] for rows in (before, after))
    known = np.asarray(pc.is_in(ids, value_set=before["product_id"].combine_chunks()))
    took = known & _differ(was, taken_back["category"])
    again = took & ~_differ(comes, taken_back["category"])
    return Counter(taken_back=int(took.sum()), returning=int(again.sum()))


def _key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


def _aligned(rows: pa.Table, ids: pa.Array) -> pa.Table:
    place = pc.index_in(ids, value_set=rows["product_id"].combine_chunks())
    return rows.combine_chunks().take(place)


def _differ(first: pa.ChunkedArray, second: pa.ChunkedArray) -> Bools:
    """Where two columns differ `[N]`; null equals null."""
    unequal = pc.fill_null(pc.not_equal(first, second), False)
    return np.asarray(pc.or_(unequal, pc.xor(pc.is_null(first), pc.is_null(second))), bool)


def _differing(pair: _Pair, lineage: Lineage) -> dict[Reason, Bools]:
    title, description = pair.differs("title_hash"), pair.differs("description_hash")
    text_only = pair.differs("text_hash") & ~title & ~description
    titled = np.asarray(pair.after["title_hash"].is_valid())
    predictor, taxonomy, encoders = _predictors(pair, lineage)
    return {
        "title": title | (text_only & titled),
        "description": description | (text_only & ~titled),
        "image": pair.differs("image_hash"),
        "encoder": encoders,
        "head": predictor & ~encoders,
        "taxonomy": taxonomy,
    }


def _predictors(pair: _Pair, lineage: Lineage) -> tuple[Bools, Bools, Bools]:
    """Where predictor, taxonomy and encoders differ."""
    sides = [pc.fill_null(side["predictor"], "").combine_chunks().dictionary_encode() for side in pair]
    parts = [np.array([lineage.parts(name) for name in side.dictionary.to_pylist()]).reshape(-1, 3) for side in sides]
    first, second = (of[side.indices.to_numpy()] for of, side in zip(parts, sides, strict=True))
    predictor, taxonomy, encoders = (first != second).T
    return predictor, taxonomy, encoders


def _as_renamed(pair: _Pair, history: TaxonomyHistory) -> Bools:
    """Where the category is what edits of the tree call the one before."""
    names = pc.unique(pair.before["category"]).drop_null()
    now = pa.array(history.current(names.to_pylist()).values(), pa.string())
    renamed = now.take(pc.index_in(pair.before["category"], value_set=names).combine_chunks())
    return np.asarray(pc.fill_null(pc.equal(renamed, pair.after["category"]), False))


def _both_sides(pair: _Pair) -> dict[str, pa.ChunkedArray]:
    sides = {"before": pair.before, "after": pair.after}
    names = {"category": "category", "decided": "decided_category", "confidence": "confidence"}
    return {f"{name}_{when}": rows[column] for name, column in names.items() for when, rows in sides.items()}


def _reviewed(rows: pa.Table) -> int:
    return int(pc.sum(pc.equal(rows["decision"], REVIEW)).as_py() or 0)


def _counted(rows: pa.Table, column: str) -> Counter[Any]:
    found = pc.value_counts(rows[column])
    return Counter(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))


def _pairs(moved: pa.Table) -> Counter[tuple[str | None, str | None]]:
    found = moved.group_by(["category_before", "category_after"]).aggregate([([], "count_all")])
    before, after, counts = (column.to_pylist() for column in found.columns)
    return Counter(dict(zip(zip(before, after, strict=True), counts, strict=True)))
