"""How long the app takes to open a large workspace, to search it, and to predict for the first time.

    python -m benchmarks.app [--products 50000] [--folder ws] [--workspace WS]

Products are made up, half of them labelled, and predictions with them; no encoder runs. The first part asks what the
pages ask, in this process, on tables that nothing has read yet; the second starts the app and times its health check.
With `--workspace`, one with a predictor and its encoders, the first prediction is timed on that one: loading, then a
product of text and image.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.running import new_workspace, report
from benchmarks.stored import write_products
from mmbatch import schema
from mmbatch.browse import Browser, State, Wanted
from mmbatch.catalog import Catalog
from mmbatch.models import published_predictor
from mmbatch.predictions import Predictions
from mmbatch.workspace import Workspace

CLASSES = 200
PORT = 8597


def main() -> None:
    """Make the products where they are not there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--workspace", default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "workspace"
        workspace = Workspace.open(str(folder)) if Workspace.exists(str(folder)) else made(folder, given.products)
        figures = browsing(workspace) | {"start": timed(lambda: started(workspace))[1]}
    if given.workspace:
        figures |= predicting(Workspace.open(given.workspace))
    report(", ".join(f"{name} {seconds:.2f} s" for name, seconds in figures.items()), figures)


def made(folder: Path, products: int) -> Workspace:
    """A workspace with so many products, half of them labelled, and a prediction of each, a tenth of them wrong."""
    workspace, rng = new_workspace(folder, preset="sample", rows=products), np.random.default_rng(0)
    codes, wrong = rng.integers(0, CLASSES, products), rng.random(products) < 0.1
    buckets = schema.bucket_of([f"p{number:09d}" for number in range(products)], workspace.settings.buckets)
    for bucket in range(workspace.settings.buckets):
        numbers = np.flatnonzero(buckets == bucket)
        write_products(
            workspace, bucket, numbers, codes=codes[numbers], labelled=numbers % 2 == 0, splits=("train", "test")
        )
        write_predictions(workspace, bucket, numbers, np.where(wrong, (codes + 1) % CLASSES, codes)[numbers], rng)
    return workspace


def write_predictions(
    workspace: Workspace, bucket: int, numbers: np.ndarray, codes: np.ndarray, rng: np.random.Generator
) -> None:
    """Publish a prediction of each product of a bucket, with five categories and two models as real ones have."""
    table, rows = Predictions(workspace=workspace).table, len(numbers)
    names = pa.array([f"c{code:03d}" for code in range(CLASSES)])
    category = names.take(pa.array(codes))
    top = names.take(pa.array(((codes[:, None] + np.arange(5)) % CLASSES).ravel()))
    fives, twos = (pa.array(np.arange(rows + 1) * each, pa.int32()) for each in (5, 2))
    models = pa.array(["text", "image"] * rows)
    confidence = rng.random(rows).astype(np.float32)
    given: dict[str, Any] = {
        "product_id": pa.array([f"p{number:09d}" for number in numbers]),
        "category": category,
        "decided_category": category,
        "confidence": confidence,
        "top_categories": pa.ListArray.from_arrays(fives, top),
        "top_probabilities": pa.ListArray.from_arrays(fives, pa.array(rng.random(5 * rows).astype(np.float32))),
        "model_categories": pa.MapArray.from_arrays(twos, models, names.take(pa.array(np.repeat(codes, 2)))),
        "model_probabilities": pa.MapArray.from_arrays(twos, models, pa.array(rng.random(2 * rows).astype(np.float32))),
        "decision": np.where(confidence > 0.3, "accepted", "review"),
        "bucket": np.full(rows, bucket, np.int32),
    }
    columns = [given.get(name, pa.nulls(rows)) for name in schema.PREDICTIONS.names]
    file = table.write_file(pa.table(columns, names=schema.PREDICTIONS.names).cast(schema.PREDICTIONS), bucket=bucket)
    table.commit([file], app_id=f"made-{bucket}")


def browsing(workspace: Workspace) -> dict[str, float]:
    """Seconds of what the catalog page asks for."""
    found, figures = {}, {}
    (_, browser), figures["open"] = timed(lambda: (State.of(workspace), Browser.open(workspace)))
    asked: dict[str, Callable[[], Any]] = {
        "counts": browser.overview,
        "first page": lambda: browser.find(Wanted()),
        "sure and wrong": lambda: browser.find(Wanted(labels="wrong", least=0.9)),
        "by id": lambda: browser.find(Wanted(words="p000000007")),
        "words that are there": lambda: browser.find(Wanted(words="product 77")),
        "words that are nowhere": lambda: browser.find(Wanted(words="no such words")),
        "confusion": lambda: browser.confusion("test"),
    }
    for name, ask in asked.items():
        found[name], figures[name] = timed(ask)
    assert found["first page"].rows.num_rows == 24
    assert found["words that are nowhere"].rows.num_rows == 0
    return figures


def started(workspace: Workspace) -> None:
    """Start the app, wait for its first answer, and end it."""
    command = [sys.executable, "-m", "jobs.app", "--workspace", workspace.uri, "--port", str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.05)
        process.terminate()


def predicting(workspace: Workspace) -> dict[str, float]:
    """Seconds until a predictor is loaded, of its first prediction and of its second."""
    clock = time.monotonic()
    from mmbatch.examine import examine, product_of
    from mmbatch.online import OnlinePredictor
    from mmbatch.taxonomy_history import TaxonomyHistory

    model = published_predictor(workspace)
    assert model is not None
    online = OnlinePredictor.load(workspace, model, history=TaxonomyHistory.read(workspace), threads=1)
    loading = time.monotonic() - clock
    catalog = Catalog(workspace=workspace).pinned()
    row = catalog.products().read(["product_id"], filters=pc.field("image_hash").is_valid()).slice(0, 1)
    product = product_of(catalog, row["product_id"][0].as_py())
    assert product is not None
    return {
        "load the predictor": loading,
        "first prediction": timed(lambda: examine(online, product))[1],
        "second prediction": timed(lambda: examine(online, product))[1],
    }


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds."""
    clock = time.monotonic()
    found = action()
    return found, time.monotonic() - clock


if __name__ == "__main__":
    main()
