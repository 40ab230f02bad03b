"""Figures of single products by a predictor, from stored features, in Ray Data tasks: a bucket each."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mmbatch.models import Model
from mmbatch.pipelines.cluster import start_ray, stream
from mmbatch.pipelines.predict import loaded_predictor, read_features
from mmbatch.pipelines.resources import MEASURE
from mmbatch.predictor import Features, Predictor
from mmbatch.progress import Progress
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

Measure = Callable[[Predictor, Features], np.ndarray]
"""Predictor, features of N products -> float32 `[N, K]`; a function of a module, as it travels to the tasks."""


def measure_products(
    workspace: Workspace, predictor: Model, products: pd.DataFrame, measure: Measure, *, name: str
) -> np.ndarray:
    """What `measure` says of each product, float32 `[N, K]`; NaN where no vector of it is stored.

    Args:
        workspace: whose stored features are read.
        predictor: the stored predictor.
        products: `product_id`, `bucket` and both hashes, at least one, ordered by bucket.
        measure: what is asked.
        name: of the work, for the progress line.
    """
    start_ray(workspace)
    history, progress = TaxonomyHistory.read(workspace), Progress(name, len(products), "products")
    units = [
        {"bucket": bucket, "keys": _keys(products[products["bucket"] == bucket]).to_pydict()}
        for bucket in products["bucket"].unique().tolist()
    ]
    work = partial(_measure_bucket, workspace=workspace, model=predictor, history=history, measure=measure)
    found: dict[int, np.ndarray] = {}
    for done in stream(units, work, ask=MEASURE):
        found[done["bucket"]] = np.frombuffer(done["values"], np.float32).reshape(done["rows"], -1)
        progress.advance(done["rows"])
    width = max(values.shape[1] for values in found.values())
    return np.concatenate([_widened(found[unit["bucket"]], width) for unit in units])


def _keys(products: pd.DataFrame) -> pa.Table:
    names = ["product_id", "text_hash", "image_hash"]
    return pa.table({name: pa.array(products[name], pa.string(), from_pandas=True) for name in names})


def _measure_bucket(
    unit: dict[str, Any], *, workspace: Workspace, model: Model, history: TaxonomyHistory, measure: Measure
) -> list[dict[str, Any]]:
    keys = pa.table({name: pa.array(values, pa.string()) for name, values in unit["keys"].items()})
    predictor = loaded_predictor(model, history)
    features = read_features(keys, predictor, workspace, unit["bucket"])
    present = np.any([there for _, there in features.values()], axis=0)
    values = np.full((keys.num_rows, 1), np.nan, np.float32)
    if present.any():
        known = measure(predictor, {name: (v[present], p[present]) for name, (v, p) in features.items()})
        values = np.full((keys.num_rows, known.shape[1]), np.nan, np.float32)
        values[present] = known
    return [{"bucket": unit["bucket"], "rows": keys.num_rows, "values": values.tobytes()}]


def _widened(values: np.ndarray, width: int) -> np.ndarray:
    """Of a bucket without any vector, as wide as the others."""
    return values if values.shape[1] == width else np.full((len(values), width), np.nan, np.float32)
