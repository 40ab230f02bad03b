"""What a user would run instead of mmbatch, on the same catalog, weights and preprocessing; text and image together.

    python -m benchmarks.peers limit   --catalog DIR --weights DIR [--allocator]
    python -m benchmarks.peers plain   --catalog DIR --weights DIR --out DIR
    python -m benchmarks.peers raydocs --catalog DIR --weights DIR --out DIR
    python -m benchmarks.peers daft    --catalog DIR --weights DIR --out DIR --python VENV/bin/python

limit    the networks alone, on decoded, tokenised inputs in memory, texts sorted by length: what this machine can do
plain    a DataLoader with two workers, batches in file order padded to the longest text, one process
raydocs  the shape of Ray's documentation: decode to float32, then an actor that holds both models, texts padded to 256
daft     a Daft class with both models in it; see benchmarks.peers_daft for its environment

`--catalog` is made by `benchmarks.catalogs copies`. Seconds include start and loading except for `limit`. Prints one
line for people on stderr and one JSON object on stdout.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.peer_models import (
    BATCH,
    COLUMNS,
    MAX_TOKENS,
    PeerModels,
    normalised,
    pixels_of,
    read_catalog,
    text_of,
    write_vectors,
)

WARM_UP_BATCHES = 2
BLOCK_ROWS = 256  # Ray makes one block of all files otherwise, and one task of it

Figures = dict[str, float]


def limit(flags: argparse.Namespace) -> Figures:
    """Seconds of both networks on inputs that lie ready; an image becomes float on the way in."""
    torch.set_num_threads(os.cpu_count() or 1)
    rows, models = read_catalog(flags.catalog), PeerModels(flags.weights)
    models.image.to(memory_format=torch.channels_last)
    pixels = [pixels_of(blob) for blob in rows["image"].to_pylist()]
    images = [torch.from_numpy(np.stack(pixels[at : at + BATCH])) for at in range(0, len(pixels), BATCH)]
    batches = _sorted_batches(models, _texts(rows))

    def encode_image(image_BHWC: torch.Tensor) -> np.ndarray:
        return models.image_vectors((image_BHWC.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)

    image_s, text_s = _seconds(encode_image, images), _seconds(models.text_vectors, batches)
    return {"rows": rows.num_rows, "seconds": image_s + text_s, "image_s": image_s, "text_s": text_s}


def _sorted_batches(models: PeerModels, texts: list[str]) -> list[Any]:
    ids = sorted((models.tokenizer(t, truncation=True, max_length=MAX_TOKENS)["input_ids"] for t in texts), key=len)
    parts = [ids[at : at + BATCH] for at in range(0, len(ids), BATCH)]
    return [models.tokenizer.pad({"input_ids": part}, return_tensors="pt") for part in parts]


def _seconds(encode: Callable[[Any], object], batches: list[Any]) -> float:
    for batch in batches[-WARM_UP_BATCHES:]:
        encode(batch)
    started = time.monotonic()
    for batch in batches:
        encode(batch)
    return time.monotonic() - started


class _Rows(Dataset[tuple[np.ndarray, str]]):
    """Products as normalised pixels and text."""

    def __init__(self, rows: pa.Table) -> None:
        self.images, self.texts = rows["image"].to_pylist(), _texts(rows)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> tuple[np.ndarray, str]:
        return normalised(pixels_of(self.images[row])), self.texts[row]


def plain(flags: argparse.Namespace) -> Figures:
    """DataLoader, both models in file order, one Parquet file at the end."""
    started = time.monotonic()
    rows, models = read_catalog(flags.catalog), PeerModels(flags.weights)
    image, text = [], []
    for pixels, texts in DataLoader(_Rows(rows), batch_size=BATCH, num_workers=2):
        image.append(models.image_vectors(pixels))
        text.append(models.text_vectors(models.tokens(texts)))
    write_vectors(flags.out, rows["product_id"].to_pylist(), np.concatenate(image), np.concatenate(text))
    return {"rows": rows.num_rows, "seconds": time.monotonic() - started}


def _decode(batch: Any) -> dict[str, Any]:
    texts = [text_of(*pair) for pair in zip(batch["title"], batch["description"], strict=True)]
    pixels = normalised(np.stack([pixels_of(blob) for blob in batch["image"]]))
    return {"product_id": batch["product_id"], "text": texts, "pixels": pixels}


class _Actor:
    def __init__(self, weights: str) -> None:
        self.models = PeerModels(weights)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        image = self.models.image_vectors(torch.from_numpy(np.ascontiguousarray(batch["pixels"])))
        text = self.models.text_vectors(self.models.tokens(batch["text"].tolist(), padding="max_length"))
        return {"product_id": batch["product_id"], "image": image, "text": text}


def raydocs(flags: argparse.Namespace) -> Figures:
    """Ray Data: read, decode, encode, write; one actor, as there are two processors on a small machine."""
    import ray
    import ray.data

    started = time.monotonic()
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_parquet(flags.catalog).select_columns(COLUMNS)
    rows = rows.repartition(target_num_rows_per_block=BLOCK_ROWS)
    actors = ray.data.ActorPoolStrategy(size=max(1, (os.cpu_count() or 1) // 2))
    vectors = rows.map_batches(_decode, batch_size=64).map_batches(
        _Actor, fn_constructor_args=(flags.weights,), batch_size=BATCH, num_cpus=0.5, compute=actors
    )
    vectors.write_parquet(flags.out)
    seconds = time.monotonic() - started
    ray.shutdown()
    return {"rows": read_catalog(flags.catalog).num_rows, "seconds": seconds}


def daft(flags: argparse.Namespace) -> Figures:
    """Daft in its own environment."""
    command = [flags.python, "-m", "benchmarks.peers_daft", flags.catalog, flags.weights, flags.out]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=sys.stderr)
    return {"rows": read_catalog(flags.catalog).num_rows, "seconds": time.monotonic() - started}


def _texts(rows: pa.Table) -> list[str]:
    return [text_of(*pair) for pair in zip(rows["title"].to_pylist(), rows["description"].to_pylist(), strict=True)]


def _set_allocator() -> None:
    """Start this command anew with mmbatch's allocator settings, which glibc reads when a process starts."""
    from mmbatch.pipelines.cluster import ALLOCATOR

    if not ALLOCATOR.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.peers", *sys.argv[1:]], os.environ | ALLOCATOR)


def main() -> None:
    """Run one peer and print what it did."""
    peers = {"limit": limit, "plain": plain, "raydocs": raydocs, "daft": daft}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=peers)
    parser.add_argument("--catalog", required=True, type=os.path.abspath)
    parser.add_argument("--weights", required=True, type=os.path.abspath)
    parser.add_argument("--out", type=os.path.abspath, help="new folder for the vectors; all but limit need it")
    parser.add_argument("--python", help="interpreter of Daft's environment", type=os.path.abspath)
    parser.add_argument("--allocator", action="store_true", help="with mmbatch's allocator settings")
    flags = parser.parse_args()
    if flags.peer != "limit" and (flags.out is None or Path(flags.out).exists()):
        parser.error(f"--out {flags.out}: expected a folder that does not exist yet")
    if flags.peer == "daft" and flags.python is None:
        parser.error("--python is missing: the interpreter of Daft's environment")
    if flags.allocator:
        _set_allocator()
    found = peers[flags.peer](flags)
    rate = found["rows"] / found["seconds"]
    figures = {"peer": flags.peer, "allocator": flags.allocator, "products_per_s": rate, **found}
    print(f"{flags.peer}: {found['rows']:,} products in {found['seconds']:.1f} s, {rate:.1f}/s", file=sys.stderr)
    print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in figures.items()}))


if __name__ == "__main__":
    main()
