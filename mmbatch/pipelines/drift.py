"""The training reference of a predictor, and how far the present catalog is from it: two samples of a few buckets.

A bucket is a random part of the catalog, as products are dealt to them by a hash of their ids.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.drift import Reference, Sample
from mmbatch.errors import InputError
from mmbatch.models import Model, open_model
from mmbatch.pipelines.extract import store_of
from mmbatch.storage import filesystem_of
from mmbatch.tables import Snapshot
from mmbatch.workspace import Workspace

REFERENCE = "reference.json"
"""File of a predictor's folder that holds its training reference; no part of its identity."""

SAMPLE = 20_000
"""Products: without drift an index of ten bins is then 0.001 on average, and their vectors take 40 MB an encoder."""

_COLUMNS = ["product_id", "title", "description", *HASH_COLUMNS.values()]

_ORDER = "sampled products"  # 16 bytes: key of the hash that orders the products of a bucket


def reference_of(workspace: Workspace, encoders: Sequence[Model]) -> Reference:
    """The distributions of a sample of the labelled train products, with the vectors that the encoders stored of them.

    It reads as few buckets as hold `SAMPLE` of them.
    """
    catalog = Catalog(workspace=workspace)
    splits, labelled = catalog.splits.snapshot(), ds.field("label").is_valid()
    return Reference.of(_sample(catalog, encoders, only=labelled, train=splits))


def catalog_drift(workspace: Workspace, predictor: Model) -> tuple[dict[str, float] | None, int]:
    """How far the catalog's products, labelled or not, are from those that a predictor was trained on.

    It reads as few buckets as hold `SAMPLE` products, and the vectors that are stored of them by now.

    Returns:
        Feature -> population stability index, None where the predictor has no training reference; products sampled.

    Raises:
        InputError: the reference is gone or not what `Reference.to_json` wrote, or an encoder of the predictor is gone.
    """
    if REFERENCE not in predictor.card["sha256"]:
        return None, 0
    filesystem, root = filesystem_of(predictor.uri)
    try:
        reference = Reference.from_json(filesystem.cat_file(f"{root}/{REFERENCE}").decode())
    except (InputError, FileNotFoundError, UnicodeDecodeError) as error:
        raise InputError(f"{predictor.uri}/{REFERENCE}: {error}") from error
    encoders = [open_model(workspace, kind="encoder", model_id=model_id) for model_id in predictor.card["encoders"]]
    sample = _sample(Catalog(workspace=workspace), encoders)
    return reference.drift(sample), sample.rows


def _sample(
    catalog: Catalog,
    encoders: Sequence[Model],
    *,
    only: ds.Expression | None = None,
    train: Snapshot | None = None,
) -> Sample:
    """At most `SAMPLE` products of the first buckets, those of `only` and, by their splits, of `train`."""
    products = catalog.products()
    rows: list[pa.Table] = []
    vectors: dict[str, list[np.ndarray]] = {model.name: [] for model in encoders}
    missing = SAMPLE
    for bucket in range(catalog.workspace.settings.buckets):
        found = products.read(_COLUMNS, buckets=[bucket], filters=only)
        if train is not None:
            drawn = train.read(["product_id"], buckets=[bucket], filters=ds.field("split") == "train")
            found = found.filter(pc.is_in(found["product_id"], value_set=drawn["product_id"].combine_chunks()))
        rows.append(_first(found, missing))
        for name, part in _vectors(catalog.workspace, encoders, rows[-1], bucket).items():
            vectors[name].append(part)
        missing -= rows[-1].num_rows
        if missing <= 0:
            break
    return _joined(pa.concat_tables(rows), {name: np.concatenate(parts) for name, parts in vectors.items()})


def _first(rows: pa.Table, most: int) -> pa.Table:
    """At most so many rows, by a hash of the product id: a random part, and the same one each time."""
    if rows.num_rows <= most:
        return rows
    ids = rows["product_id"].to_numpy(zero_copy_only=False)
    order = np.argsort(pd.util.hash_array(ids, hash_key=_ORDER, categorize=False), kind="stable")
    return rows.take(pa.array(np.sort(order[:most])))


def _vectors(workspace: Workspace, encoders: Sequence[Model], rows: pa.Table, bucket: int) -> dict[str, np.ndarray]:
    """Encoder name -> vectors float16 `[n, W]` of the rows of one bucket that have one."""
    found = {}
    for model in encoders:
        stored, present = store_of(workspace, model).read(rows[HASH_COLUMNS[model.card["modality"]]], buckets=[bucket])
        found[model.name] = stored[present]
    return found


def _joined(rows: pa.Table, vectors: Mapping[str, np.ndarray]) -> Sample:
    images = np.asarray(pc.is_valid(rows[HASH_COLUMNS["image"]]))
    return Sample(titles=rows["title"], descriptions=rows["description"], images=images, vectors=vectors)
