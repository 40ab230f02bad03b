"""Labelled rows for training: which products, which classes, which split."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.models import digest_of
from mmbatch.schema import PATH_SEPARATOR, Modality, Split


@dataclass(frozen=True)
class Labels:
    """Keys, hashes, class codes and splits of the labelled products; no content."""

    rows: pd.DataFrame
    """`product_id`, `category`, `code` (-1: no train row is of this class), both hashes, `split`, `bucket`."""
    categories: tuple[str, ...]
    """Categories that occur in train rows, sorted by path; a class code is an index into it."""

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The tree of the categories; a class code is an index into its paths too."""
        return Taxonomy(tuple(map(path_of, self.categories)))

    def with_modality(self, modality: Modality) -> pd.DataFrame:
        """Rows of known classes that have this modality, with its hash as `content_hash`."""
        rows = self.rows.rename(columns={HASH_COLUMNS[modality]: "content_hash"})
        return rows[rows["content_hash"].notna() & (rows["code"] >= 0)]

    def digest(self, *modalities: Modality, splits: Sequence[Split] = ("train", "fusion")) -> str:
        """Identity of the rows of some splits, for models of these modalities; by default, of those that train them."""
        columns = ["product_id", "category", "split", *(HASH_COLUMNS[modality] for modality in modalities)]
        used = self.rows[self.rows["split"].isin(splits)][columns].fillna("")
        return digest_of([len(used), str(pd.util.hash_pandas_object(used, index=False).sum())])


def training_labels(catalog: Catalog) -> Labels:
    """The labelled products of a catalog.

    `InputError` when nothing can be learned: no labels, one class only, or no class with three products.
    """
    table = catalog.labels()
    where = f"--workspace {catalog.workspace.uri}"
    if not table.num_rows:
        raise InputError(
            f"{where}: no product has a label, training needs labelled products (label column of the source)"
        )
    rows: pd.DataFrame = table.to_pandas()
    categories = tuple(sorted(rows.loc[rows["split"] == "train", "category"].unique(), key=path_of))
    if len(categories) < 2:
        raise InputError(f"{where}: found one class only ({', '.join(categories)}), training needs at least two")
    if not {"fusion", "test"} <= set(rows["split"]):
        raise InputError(
            f"{where}: no class has three products, so none can be held out;"
            f" found {len(rows)} labelled products in {len(categories)} classes"
        )
    codes = {category: code for code, category in enumerate(categories)}
    return Labels(rows.assign(code=rows["category"].map(codes).fillna(-1).astype(np.int64)), categories)


def path_of(category: str) -> tuple[str, ...]:
    """The names of a category path that was joined into one string."""
    return tuple(category.split(PATH_SEPARATOR))


def by_bucket(rows: pd.DataFrame, split: Split) -> list[tuple[int, pd.DataFrame]]:
    """The rows of one split, a bucket at a time, in the buckets' order."""
    chosen = rows[rows["split"] == split]
    return [(int(bucket), part) for bucket, part in chosen.groupby("bucket")]  # type: ignore[arg-type]
