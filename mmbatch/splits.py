"""Which labelled product may be used for what; drawn once, stratified, by content.

`train` fits encoders and heads, `fusion` chooses their best epoch and fits the late fusion, `calibration` fits
temperatures and thresholds and nothing else, `golden` decides whether predictions and predictors are published, `test`
is only ever scored.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmbatch.schema import SPLITS, Split

SHARES: Mapping[Split, float] = {"test": 0.1, "fusion": 0.1}
SAMPLED: Mapping[Split, float] = {"calibration": 0.05, "golden": 0.05}

SMALLEST_STRATIFIED_CLASS = 3
"""From three products on, a class has train, fusion and test rows; a smaller one is training data only."""

PLACEHOLDER_IMAGE = 1_000
"""An image that more products than this share is a placeholder ("no photo"), not a sign of equal products."""


def draw_splits(
    *,
    product_ids: pa.Array | pa.ChunkedArray,
    classes: np.ndarray,
    text_hashes: pa.Array | pa.ChunkedArray,
    image_hashes: pa.Array | pa.ChunkedArray,
    drawn: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Split of every product as an index into `SPLITS`, int8 `[N]`.

    Products that share their text or their image form one group and get one split. Within a class the groups are
    ordered by a seeded hash of their ids and fill test, fusion, calibration and golden, in this order, up to their
    shares; train takes the rest.

    Args:
        product_ids: ids `[N]`.
        classes: class codes, int `[N]`.
        text_hashes: content of each modality `[N]`; null where it is missing.
        image_hashes: likewise.
        drawn: earlier draws, int8 `[N]`, -1 where there is none; they are returned as they are.
        seed: the workspace's seed.
    """
    groups = content_groups(text_hashes, image_hashes)
    ids = np.asarray(product_ids, dtype=object)
    order = pd.util.hash_array(ids, hash_key=f"{seed:016d}"[-16:], categorize=False)
    frame = pd.DataFrame({"class": classes, "group": groups, "order": order, "drawn": drawn})
    inherited = frame[frame["drawn"] >= 0].groupby("group")["drawn"].min()
    frame["split"] = frame["drawn"].where(frame["drawn"] >= 0, frame["group"].map(inherited)).fillna(-1)
    free = frame["split"] < 0
    if free.any():
        frame.loc[free, "split"] = frame.loc[free, "group"].map(_fill_quotas(frame, seed))
    return frame["split"].to_numpy(np.int8)


def content_groups(text_hashes: pa.Array | pa.ChunkedArray, image_hashes: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Group number of each product, int `[N]`: the connected components of "has the same text or the same image"."""
    products = len(text_hashes)
    rows, nodes, offset = [], [], products
    for hashes, limit in ((text_hashes, products), (image_hashes, PLACEHOLDER_IMAGE)):
        codes, values = pd.factorize(hashes.to_pandas())
        shared = np.bincount(codes[codes >= 0], minlength=len(values)) if len(values) else np.zeros(0, int)
        linked = (codes >= 0) & (shared[codes] <= limit) if len(values) else np.zeros(products, bool)
        rows.append(np.flatnonzero(linked))
        nodes.append(codes[linked] + offset)
        offset += len(values)
    row, node = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_array((np.ones(len(row), bool), (row, node)), shape=(offset, offset))
    return np.asarray(connected_components(graph, directed=False)[1][:products])


def _fill_quotas(frame: pd.DataFrame, seed: int) -> pd.Series:
    """Split of each group that has none yet: quotas of its class in the order of the seeded hash."""
    per_class = frame.groupby("class").size()
    groups = (
        frame[frame["split"] < 0]
        .sort_values("order", kind="stable")
        .groupby("group", sort=False)
        .agg(**{"class": ("class", "first"), "size": ("order", "size")})
    )
    left = {split: groups["class"].map(_left(frame, split, quota)) for split, quota in _quotas(per_class, seed).items()}
    fits = groups["size"] <= np.maximum(left["test"], 1)  # a group larger than the whole quota is training data
    filled = groups["size"].where(fits, 0).groupby(groups["class"]).cumsum() - groups["size"]
    ends = np.cumsum(list(left.values()), axis=0)
    drawn = np.select([fits & (filled < end) for end in ends], [SPLITS.index(split) for split in left], 0)
    return pd.Series(drawn, index=groups.index)


def _quotas(per_class: pd.Series, seed: int) -> dict[Split, pd.Series]:
    """Products of each class that each split but train is to have, in the order in which splits are filled.

    Test and fusion have one of each class at least. Calibration and golden are to be plain samples of the labelled
    products, as thresholds fitted on the large classes alone would promise too much: their quotas are the share of the
    class, rounded up or down by chance, so that small classes have their part in the mean.
    """
    held = per_class >= SMALLEST_STRATIFIED_CLASS
    quotas: dict[Split, pd.Series] = {
        split: (per_class * share).round().astype(int).clip(lower=1).where(held, 0) for split, share in SHARES.items()
    }
    rng = np.random.default_rng(seed)
    spare = (per_class - quotas["test"] - quotas["fusion"] - 1).clip(lower=0)  # one is left to train on
    for split, share in SAMPLED.items():
        chance = rng.random(int(per_class.index.max()) + 1)[per_class.index]
        quotas[split] = np.floor(per_class * share + chance).astype(int).clip(upper=spare)
        spare -= quotas[split]
    return quotas


def _left(frame: pd.DataFrame, split: Split, quota: pd.Series) -> pd.Series:
    """What earlier draws have left of a split's quotas."""
    taken = frame[frame["split"] == SPLITS.index(split)].groupby("class").size()
    return (quota - taken.reindex(quota.index, fill_value=0)).clip(lower=0)
