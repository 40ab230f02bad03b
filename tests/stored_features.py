"""A workspace whose labelled products have features of two encoders that no encoder has made."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmbatch import schema
from mmbatch.catalog import Catalog
from mmbatch.feature_store import FeatureStore
from mmbatch.models import Model
from mmbatch.pipelines.extract import store_of
from mmbatch.workspace import Settings, Workspace

BUCKETS = 4
WIDTHS = {"image": 3, "text": 8}

PATHS = (("a", "x"), ("a", "y"), ("b", "x"), ("b",))
"""Category of each product, by its number: the text says the first name, the image the second."""


def encoders(workspace: Workspace) -> tuple[Model, ...]:
    """An image and a text encoder, as far as readers of features look at them."""
    return tuple(
        Model(
            kind="encoder",
            id=f"{modality}@1",
            uri=workspace.path("models", "encoder", f"{modality}@1"),
            card={"modality": modality, "width": width},
        )
        for modality, width in WIDTHS.items()
    )


def write_workspace(
    folder: Path,
    *,
    products: int,
    without_vectors: Sequence[int] = (),
    calibrated: bool = False,
    golden: bool = False,
) -> Workspace:
    """Products 0 to N - 1 in buckets by number; every tenth is a fusion row, every tenth a test row.

    Where the workspace is to be `calibrated`, another tenth are calibration rows; with `golden`, one more golden rows.

    The image vector says with noise whether a path's second name is x, y or missing, the text vector its first name.
    """
    workspace = Workspace.create(str(folder), Settings(preset="sample", level=2, seed=0, buckets=BUCKETS))
    catalog, rng = Catalog(workspace=workspace), np.random.default_rng(7)
    numbers = np.arange(products)
    ids = [f"p{number:05d}" for number in numbers]
    kinds = rng.integers(0, len(PATHS), products)
    rows = {
        "product_id": ids,
        "label": [list(PATHS[kind]) for kind in kinds],
        "text_hash": [f"t{number}" for number in numbers],
        "image_hash": [None if number % 7 == 3 else f"i{number}" for number in numbers],
    }
    missing = {
        name: [None] * products
        for name in ("title", "description", "title_hash", "description_hash", "image_uri", "source")
    }
    drawn = {0: "fusion", 5: "test"} | ({7: "calibration"} if calibrated else {}) | ({8: "golden"} if golden else {})
    splits = [drawn.get(number % 10, "train") for number in numbers.tolist()]
    first = np.array([[path[0] == "a", path[0] == "b", *[False] * 6] for path in PATHS])[kinds]
    second = np.array([[path[1:] == ("x",), path[1:] == ("y",), len(path) == 1] for path in PATHS])[kinds]
    image, text = (values + rng.normal(0, 0.3, values.shape) for values in (second, first))
    for bucket in range(BUCKETS):
        at = numbers[numbers % BUCKETS == bucket]
        chosen, same = pa.array(at), {"bucket": pa.repeat(pa.scalar(bucket, pa.int32()), len(at))}
        whole = pa.table({name: pa.array(values).take(chosen) for name, values in (rows | missing).items()} | same)
        _append(catalog.table, whole.select(schema.CATALOG.names).cast(schema.CATALOG), bucket)
        split = {"product_id": pa.array(ids).take(chosen), "split": pa.array(splits).take(chosen)} | same
        _append(catalog.splits, pa.table(split, schema=schema.SPLIT), bucket)
        kept = pa.array([number for number in at if number not in without_vectors])
        for model, vectors in zip(encoders(workspace), (image, text), strict=True):
            _store(store_of(workspace, model), pa.array(ids).take(kept), kept, vectors, bucket)
    return workspace


def _append(table: object, rows: pa.Table, bucket: int) -> None:
    table.commit([table.write_file(rows, bucket=bucket)], app_id=f"made-{bucket}")  # type: ignore[attr-defined]


def _store(store: FeatureStore, ids: pa.Array, numbers: pa.Array, vectors: np.ndarray, bucket: int) -> None:
    at = numbers.to_numpy()
    hashes = pa.array([f"{store.modality[0]}{number}" for number in at])
    store.table.commit([store.write(ids, hashes, vectors[at].astype(np.float16), bucket=bucket)], app_id=f"m-{bucket}")
