"""Labelled products beside what is published of them: a row each with category names, and nothing of their content."""

from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.predictions import Predictions
from mmbatch.progress import say
from mmbatch.taxonomy_history import TaxonomyHistory

PUBLISHED = "late fusion"
"""Name of the published predictions among the models of a table."""

_READ = ["product_id", "category", "confidence", "decision", "decided_category", "model_categories"]


def labelled_predictions(catalog: Catalog, models: Sequence[str], history: TaxonomyHistory) -> pd.DataFrame:
    """One row per labelled product: id, bucket, split, hashes, gold category, and what each model says (None: nothing).

    Under `PUBLISHED` stands the published category, beside it `confidence`, `decision` and `decided_category`.
    Categories have their present names; a gold category is None where it was removed or split.
    """
    predictions, parts = Predictions(workspace=catalog.workspace), []
    for bucket in range(catalog.workspace.settings.buckets):
        labels = catalog.labels([bucket])
        found = predictions.table.read(_READ, buckets=[bucket]).combine_chunks()
        place = pc.index_in(labels["product_id"], value_set=found["product_id"].combine_chunks()).combine_chunks()
        found = found.take(place)
        said = found["model_categories"].combine_chunks()
        rows = labels.select(["product_id", "bucket", "split", "text_hash", "image_hash"])
        rows = rows.append_column("gold", labels["category"]).append_column(PUBLISHED, found["category"])
        for name in ("confidence", "decision", "decided_category"):
            rows = rows.append_column(name, found[name])
        for name in models:
            rows = rows.append_column(name, pc.map_lookup(said, pa.scalar(name), "first"))
        parts.append(rows)
    frame: pd.DataFrame = pa.concat_tables(parts).to_pandas()
    for name in ("gold", PUBLISHED, *models):
        frame[name] = frame[name].map(history.current(frame[name].dropna().unique()))
    return frame


def in_the_tree(rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows that have a gold category, and how many have none in the edited tree."""
    gone = rows["gold"].isna()
    left_out = int(gone.sum())
    if left_out:
        say(f"evaluate   left out {left_out:,} labelled products, whose category was removed or split")
    return rows[~gone], left_out
