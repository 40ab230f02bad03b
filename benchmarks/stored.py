"""Workspaces whose products and vectors are written straight into the tables: no source is read, no encoder runs."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.catalog import Catalog
from mmbatch.models import Model, publish_model
from mmbatch.pipelines.extract import store_of
from mmbatch.schema import MODALITIES, Modality, Split
from mmbatch.tables import Table
from mmbatch.workspace import Workspace


def name_encoders(workspace: Workspace, encoders: Mapping[str, tuple[Modality, int]]) -> list[Model]:
    """Cards of encoders (name -> what it reads, width of its vectors) without a network."""
    models = []
    for name, (modality, width) in encoders.items():
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "none.txt").write_text(name)
            card = {"modality": modality, "width": width}
            models.append(
                publish_model(
                    workspace,
                    kind="encoder",
                    name=name,
                    folder=Path(folder),
                    identity=["none.txt"],
                    recipe="",
                    card=card,
                )
            )
    return models


def hashes_of(numbers: np.ndarray, modality: Modality) -> pa.Array:
    """Content hash of each product, as long as real ones: string `[N]`."""
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 32 - len(modality), "0")
    return pc.binary_join_element_wise(modality, digits, "")


def write_products(
    workspace: Workspace,
    bucket: int,
    numbers: np.ndarray,
    *,
    codes: np.ndarray,
    labelled: np.ndarray,
    splits: Sequence[Split],
    imageless: np.ndarray | None = None,
) -> None:
    """Write one bucket's products, by number, to `catalog` and `splits`.

    Args:
        workspace: where to.
        bucket: theirs.
        numbers: int `[N]`, ascending.
        codes: category of each, int `[N]`.
        labelled: which of them say so, bool `[N]`.
        splits: of the labelled ones, dealt out in turn.
        imageless: which of them have no image, bool `[N]`; None: none.
    """
    catalog = Catalog(workspace=workspace)
    ids = pc.binary_join_element_wise("p", pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0"), "")
    paths = pa.array([[f"c{code:03d}"] for code in range(codes.max() + 1)], pa.list_(pa.string()))
    known = {f"{modality}_hash": hashes_of(numbers, modality) for modality in MODALITIES}
    if imageless is not None:
        known["image_hash"] = pc.if_else(pa.array(imageless), pa.scalar(None, pa.string()), known["image_hash"])
    known |= {"product_id": ids, "title_hash": pa.array(numbers), "description_hash": pa.array(numbers)}
    known |= {"title": pc.binary_join_element_wise("product", pa.array(numbers).cast(pa.string()), " ")}
    known |= {"label": paths.take(pa.array(codes, mask=~labelled)), "bucket": _same(bucket, len(ids))}
    columns = [known.get(name, pa.nulls(len(ids))) for name in schema.CATALOG.names]
    _append(catalog.table, pa.table(columns, names=schema.CATALOG.names).cast(schema.CATALOG), bucket)
    place = np.flatnonzero(labelled)
    drawn = pa.array(splits).take(pa.array(np.arange(len(place)) % len(splits)))
    split = {"product_id": ids.take(pa.array(place)), "split": drawn, "bucket": _same(bucket, len(place))}
    _append(catalog.splits, pa.table(split, schema=schema.SPLIT), bucket)


def write_vectors(workspace: Workspace, model: Model, bucket: int, numbers: np.ndarray, vectors: np.ndarray) -> None:
    """Write one bucket's vectors, float `[N, width]`, of products by number, to an encoder's feature table."""
    store, modality = store_of(workspace, model), model.card["modality"]
    ids = pc.binary_join_element_wise("p", pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0"), "")
    file = store.write(ids, hashes_of(numbers, modality), vectors.astype(np.float16), bucket=bucket)
    store.table.commit([file], app_id=f"made-{bucket}")


def _same(bucket: int, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(bucket, pa.int32()), rows)


def _append(table: Table, rows: pa.Table, bucket: int) -> None:
    table.commit([table.write_file(rows, bucket=bucket)], app_id=f"made-{bucket}")
