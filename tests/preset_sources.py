"""A few real products, written out as each of the published systems got its catalog."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq

from mmbatch.images import ImageError, check_image
from mmbatch.sample import write_sample
from tests.rakuten_files import Item, write_challenge

FLIPKART = Path(__file__).resolve().parents[1] / "../shared/data/flipkart_1050.parquet"
CLASSES, PER_CLASS, RARE = 5, 6, 2
"""Classes with products for all splits, products of each, and products of one more class: too few to hold one out."""
DESCRIPTION = 80
"""Characters that are kept of a description."""


@dataclass(frozen=True)
class Product:
    number: int
    title: str
    description: str | None
    image: bytes
    path: list[str]
    code: int
    """Of the first level, from 1."""


def small_catalog(folder: Path) -> list[Product]:
    """Of the Flipkart sample, or of the built-in catalog where that is not beside the checkout."""
    file = FLIPKART if FLIPKART.exists() else Path(write_sample(str(folder), rows=600, seed=1)[0])
    rows = [row for row in pq.read_table(file).to_pylist() if _whole(row)]
    rows.sort(key=lambda row: (row["category_path"][0], row["product_id"]))
    by_class = [list(same) for _, same in groupby(rows, key=lambda row: str(row["category_path"][0]))]
    chosen = [same[:PER_CLASS] for same in by_class[:CLASSES]] + [by_class[CLASSES][:RARE]]
    coded = [(code, row) for code, same in enumerate(chosen, 1) for row in same]
    return [
        Product(
            number=1_000 + at,
            title=row["title"],
            description=row["description"] and row["description"][:DESCRIPTION],
            image=row["image"],
            path=row["category_path"],
            code=code,
        )
        for at, (code, row) in enumerate(coded)
    ]


def _whole(row: dict[str, Any]) -> bool:
    if not (row["title"] and row["image"] and row["category_path"]):
        return False
    try:
        check_image(row["image"])
    except ImageError:
        return False
    return True


def write_rakuten(folder: Path, products: list[Product]) -> Path:
    """The challenge's re-issue, and one product to predict: the first with another id."""
    items = [
        Item(at, p.title, p.description or "", p.number, 7 * p.number, str(10 * p.code), p.image)
        for at, p in enumerate(products)
    ]
    unknown = items[0]._replace(number=len(items), product=1_000 + len(items))
    return write_challenge(folder, items, [unknown], form="csv", photos="images")


def write_flipkart(
    folder: Path, products: list[Product], site: str, *, elsewhere: Mapping[int, str] | None = None
) -> Path:
    """The CSV file of Kaggle, and its images as a web server below `site` would have them.

    The first image of the product with a number in `elsewhere` is at that address.
    """
    folder.mkdir(parents=True)
    rows = []
    for product in products:
        first = (elsewhere or {}).get(product.number, f"{site}/{product.number}.jpeg")
        (folder / f"{product.number}.jpeg").write_bytes(product.image)
        tree = [" >> ".join(product.path)]
        images = [first, f"{site}/{product.number}-2.jpeg"]
        rows.append([f"u{product.number}", product.title, json.dumps(tree), 379.0, json.dumps(images), "No rating"])
        rows[-1].append(product.description)
    header = ["uniq_id", "product_name", "product_category_tree", "retail_price", "image", "product_rating"]
    _write_csv(folder / "flipkart_com-ecommerce_sample.csv", [*header, "description"], rows)
    return folder / "flipkart_com-ecommerce_sample.csv"


def write_kakao(folder: Path, products: list[Product]) -> Path:
    """One of the arena's HDF5 files: made-up vectors around a centre of each class, codes with -1 for no level."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(6)
    centres = rng.random((CLASSES + 2, 2048), np.float32)
    vectors = [centres[p.code] + rng.random(2048, np.float32) for p in products]
    with h5py.File(folder / "train.chunk.01", "w") as file:
        group = file.create_group("train")
        group["pid"] = np.array([f"O{p.number:010d}" for p in products], "S12")
        group["product"] = np.array([p.title.encode() for p in products])
        group["img_feat"] = np.array(vectors, np.float32)
        group["bcateid"] = np.array([p.code for p in products], np.int32)
        group["mcateid"] = np.array([10 * p.code for p in products], np.int32)
        group["scateid"] = np.array([100 * p.code if p.code % 2 else -1 for p in products], np.int32)
        group["dcateid"] = np.full(len(products), -1, np.int32)
    return folder / "train.chunk.01"


def _write_csv(file: Path, header: list[str], rows: list[list[Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
