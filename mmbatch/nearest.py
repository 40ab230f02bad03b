"""Products of the catalog whose stored vectors are nearest to those of one product."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mmbatch.browse import Browser
from mmbatch.catalog import HASH_COLUMNS
from mmbatch.feature_store import FeatureStore
from mmbatch.fusion.probe import unit
from mmbatch.models import Model

MOST = 100_000
"""Products that are compared: with 1,000 numbers each, a few seconds' work."""


class Nearest(NamedTuple):
    """What is found."""

    product_ids: list[str]
    similarities: list[float]
    """Cosine, mean over the encoders that have a vector of the product in question; 0 where the other has none."""
    compared: int
    """Products of the catalog that were looked at: buckets are random parts of it."""


def nearest(
    browser: Browser, encoders: Mapping[str, Model], vectors: Mapping[str, np.ndarray], *, limit: int = 8
) -> Nearest:
    """The `limit` nearest of at most about `MOST` products, by vectors float `[width]` of some encoders, by name."""
    names, found, compared = [""], [-np.inf], 0
    for bucket in range(browser.buckets):
        keys = browser.catalog.products().read(["product_id", *HASH_COLUMNS.values()], buckets=[bucket])
        if not len(keys) or not vectors:
            continue
        total = sum(_cosines(browser, encoders[name], keys, bucket, vector) for name, vector in vectors.items())
        similarity_N = np.asarray(total) / len(vectors)
        best = np.argsort(-similarity_N, kind="stable")[:limit]
        names += keys["product_id"].take(pa.array(best)).to_pylist()
        found += similarity_N[best].tolist()
        compared += len(keys)
        if compared >= MOST:
            break
    order = [place for place in np.argsort(-np.asarray(found), kind="stable")[:limit] if names[place]]
    return Nearest([names[place] for place in order], [float(found[place]) for place in order], compared)


def _cosines(browser: Browser, model: Model, keys: pa.Table, bucket: int, vector: np.ndarray) -> np.ndarray:
    modality = model.card["modality"]
    store = FeatureStore(
        workspace=browser.catalog.workspace, encoder=model.id, modality=modality, width=model.card["width"]
    )
    stored, present = store.read(keys[HASH_COLUMNS[modality]], buckets=[bucket])
    return np.where(present, unit(stored) @ unit(vector[None])[0], 0.0)
