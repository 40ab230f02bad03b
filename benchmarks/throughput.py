"""Products per second of mmbatch's extraction, text and image together, with the models and pixels of benchmarks.peers.

    python -m benchmarks.throughput --catalog DIR --weights DIR --workspace DIR [--against DIR]

`--catalog` is made by `benchmarks.catalogs copies`, `--workspace` is a new folder, `--against` is what a run of
benchmarks.peers has written on the same catalog: the least cosine between its vectors and these is found then.

cold       of the whole `jobs.extract_features` process, start included
steady     of the time after the first unit of work reached an encoder, by the run's ledger
by files   of the time between feature files, by their modification times; the first ones, as many as there are
           processors, are left out with their vectors
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from benchmarks.running import Finished, new_workspace, report, run_job, store_encoder
from mmbatch.catalog import Catalog
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.text import TransformersText
from mmbatch.feature_store import FeatureStore
from mmbatch.models import Model
from mmbatch.pipelines.extract import store_of
from mmbatch.workspace import Workspace


def store_encoders(workspace: Workspace, weights: str) -> list[Model]:
    """MiniLM and EfficientNet-Lite0 as pretrained."""
    minilm = "sentence-transformers/all-MiniLM-L6-v2"
    text = TransformersText.from_pretrained(minilm, max_length=256, weights=weights)
    image = TimmImage.from_pretrained("tf_efficientnet_lite0", weights=weights, framing="crop", reduced_decode=False)
    return [store_encoder(workspace, "minilm", text), store_encoder(workspace, "efficientnet-lite0", image)]


def rates(done: Finished, stores: list[FeatureStore]) -> dict[str, Any]:
    """Products per second of an extraction from nothing."""
    products = max(outcome["computed"] for outcome in done.counts["encoders"].values())
    speed = done.counts["speed"]
    return {
        "products": products,
        "quarantined": done.counts.get("quarantined"),
        "cold": products / done.seconds,
        "steady": speed["contents"] / len(stores) / speed["seconds"],
        "by_files": by_files(stores),
        "process_s": done.seconds,
        "peak_gib": done.peak_bytes / 2**30,
        "speed": speed,
    }


def by_files(stores: list[FeatureStore]) -> float | None:
    """Products per second by the feature files; None where they are too few."""
    paths = [(Path(store.table.uri, entry.path), entry.rows) for store in stores for entry in store.table.files()]
    files = sorted((path.stat().st_mtime, rows) for path, rows in paths)
    first = os.cpu_count() or 1
    if len(files) <= first:
        return None
    vectors = sum(rows for _, rows in files[first:])
    return vectors / len(stores) / (files[-1][0] - files[first - 1][0])


def least_cosines(catalog: Catalog, stores: list[FeatureStore], folder: str) -> dict[str, float]:
    """By modality, the least cosine between a product's vector here and in the Parquet files of a peer."""
    keys, peer = catalog.keys(), ds.dataset(folder, format="parquet").to_table()
    order = {product: row for row, product in enumerate(peer["product_id"].to_pylist())}
    rows = [order[product] for product in keys["product_id"].to_pylist()]
    found: dict[str, float] = {}
    for store in stores:
        hashes = keys[f"{store.modality}_hash"]
        vectors, present = store.read(hashes, buckets=range(catalog.workspace.settings.buckets))
        theirs = np.array(peer[store.modality].to_pylist(), np.float32)[rows]
        ours = vectors.astype(np.float32)
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        found[store.modality] = float(((ours * theirs).sum(axis=1) / lengths)[present].min())
    return found


def main() -> None:
    """Ingest, extract, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", required=True)
    parser.add_argument("--weights", required=True, type=os.path.abspath)
    parser.add_argument("--workspace", required=True, type=Path, help="new folder")
    parser.add_argument("--against", help="what a peer has written")
    flags = parser.parse_args()
    products = ds.dataset(flags.catalog, format="parquet").count_rows()
    workspace = new_workspace(flags.workspace, preset="flipkart-small", rows=products)
    run_job("ingest", workspace.uri, "--source", flags.catalog)
    stores = [store_of(workspace, model) for model in store_encoders(workspace, flags.weights)]
    figures = rates(run_job("extract_features", workspace.uri), stores)
    if flags.against:
        figures["least_cosine"] = least_cosines(Catalog(workspace=workspace), stores, flags.against)
    line = f"extract: {figures['products']:,} products, {figures['cold']:.1f}/s cold, {figures['steady']:.1f}/s steady"
    report(line, figures)


if __name__ == "__main__":
    main()
