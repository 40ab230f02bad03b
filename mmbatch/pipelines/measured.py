"""What the gate judges: the staged predictions measured against the published ones."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_edits import shown
from mmbatch.gate import Measured
from mmbatch.golden import Difference, difference
from mmbatch.models import Model
from mmbatch.pipelines.drift import catalog_drift
from mmbatch.pipelines.publish import Candidate, quarantined
from mmbatch.predictions import Predictions
from mmbatch.predictor import stored_categories
from mmbatch.runs import publications
from mmbatch.tables import FileEntry, Snapshot
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace


def measure(workspace: Workspace, new: Candidate, *, chosen: Model, champion: Model | None) -> Measured:
    """Measure what is to be published; `champion` is the predictor that is published, None: nothing is."""
    counts, history = new.tally.counts, TaxonomyHistory.read(workspace)
    before = next(iter(publications(workspace)), None)
    lost, gained = _labels(history, champion, chosen)
    drift, drift_rows = catalog_drift(workspace, chosen)
    table = Predictions(workspace=workspace).table
    return Measured(
        products_before=counts["products_before"],
        products_after=counts["products_after"],
        changed=counts["changed"],
        removed=new.tally.reasons["removed"],
        categories={
            category: (total, new.tally.left[category])
            for category, total in new.tally.before.items()
            if category is not None
        },
        review_before=counts["review_before"],
        review_after=counts["review_after"],
        quarantined_before=before["counts"]["quarantined"] if before else None,
        quarantined_after=quarantined(workspace),
        drift=drift,
        drift_rows=drift_rows,
        golden=golden_difference(workspace, new, history),
        labels_lost=lost,
        labels_new=gained,
        columns_before=table.columns() if table.rows() else None,
        columns_after=table.written_columns(new.added[0]) if new.added else (),
        returning=(counts["taken_back"], counts["returning"]) if "taken_back" in counts else None,
    )


def _labels(history: TaxonomyHistory, champion: Model | None, chosen: Model) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Categories that only the published predictor can decide for, and those that only the chosen one can, sorted."""
    if champion is None or champion.id == chosen.id:
        return (), ()
    before, after = (_decisions(history, model) for model in (champion, chosen))
    return tuple(sorted(before - after)), tuple(sorted(after - before))


def _decisions(history: TaxonomyHistory, model: Model) -> set[str]:
    return {shown(path) for path in history.version_of(Taxonomy(stored_categories(model))).decisions if path}


def golden_difference(workspace: Workspace, new: Candidate, history: TaxonomyHistory) -> Difference | None:
    """Macro-F1 of the golden rows as published and as staged; None where none has a prediction before and after.

    Labels and predictions are compared by the names that the tree has for them now; a golden row whose category was
    removed or split is left out.
    """
    published, catalog = Predictions(workspace=workspace).table.snapshot(), Catalog(workspace=workspace)
    buckets = range(workspace.settings.buckets)
    parts = [_golden_rows(catalog, bucket, published, new.added, history) for bucket in buckets]
    rows = pa.concat_tables(parts).to_pandas()
    if not len(rows):
        return None
    gold, before, after = (rows[name].to_numpy() for name in ("gold", "before", "after"))
    return difference(gold, before, after, seed=workspace.settings.seed)


def _golden_rows(
    catalog: Catalog, bucket: int, published: Snapshot, added: Iterable[FileEntry], history: TaxonomyHistory
) -> pa.Table:
    """Categories of the golden rows of a bucket: `gold`, `before` and `after`."""
    ids = catalog.splits.read(["product_id"], buckets=[bucket], filters=pc.field("split") == "golden")["product_id"]
    labels = catalog.labels([bucket])
    labels = labels.filter(pc.is_in(labels["product_id"], value_set=ids.combine_chunks()))
    files = [entry for entry in added if entry.bucket == bucket] or published.of([bucket])
    columns = ["product_id", "category"]
    sides = published.read(columns, buckets=[bucket]), published.table.read_files(files, columns)
    gold = _now(labels["category"], history)
    before, after = (_now(_categories(labels["product_id"], rows), history) for rows in sides)
    keep = pc.and_(gold.is_valid(), pc.and_(*(_known(labels["product_id"], rows) for rows in sides)))
    return pa.table({"gold": gold, "before": before, "after": after}).filter(keep)


def _known(ids: pa.ChunkedArray, rows: pa.Table) -> pa.Array:
    return pc.is_in(ids, value_set=rows["product_id"].combine_chunks()).combine_chunks()


def _categories(ids: pa.ChunkedArray, rows: pa.Table) -> pa.ChunkedArray:
    return rows["category"].take(pc.index_in(ids, value_set=rows["product_id"].combine_chunks()))


def _now(categories: pa.ChunkedArray, history: TaxonomyHistory) -> pa.Array:
    """What categories are called now; null where one was removed or split."""
    names = pc.unique(categories).drop_null()
    now = pa.array(history.current(names.to_pylist()).values(), pa.string())
    return now.take(pc.index_in(categories, value_set=names).combine_chunks())
