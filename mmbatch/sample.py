"""The built-in sample catalog: procedurally drawn products with titles, descriptions, pictures and a shop's faults.

Classes are heavy-tailed. Some leaves only the image tells apart (`SAME_WORDS`), some only the text
(`SAME_DRAWING`), the others either can tell in part. Row i depends on (seed, i) alone: any slice can be drawn
anywhere, and asking for more rows keeps the first ones. Pictures are the same bytes wherever Pillow is the same.
"""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from mmbatch.errors import InputError
from mmbatch.sample_drawings import SAME_DRAWING, draw_picture
from mmbatch.sample_words import (
    COLOURS,
    DEPARTMENTS,
    SAME_WORDS,
    TAXONOMY,
    draw_product,
    write_description,
    write_title,
)
from mmbatch.storage import filesystem_of, make_folder
from mmbatch.workspace import normalise_uri

__all__ = [
    "LEAF_SHARES",
    "SAME_DRAWING",
    "SAME_WORDS",
    "SAMPLE",
    "SHARES",
    "TAXONOMY",
    "sample_batches",
    "write_sample",
]

SAMPLE = pa.schema(
    [
        ("product_id", pa.string()),  # null only in a `no_id` row
        ("title", pa.string()),  # null only in an `empty` row
        ("description", pa.string()),  # null: none
        ("image", pa.binary()),  # JPEG file, 96 x 96; null: none; not a readable image: broken
        ("category_path", pa.list_(pa.string())),  # department, leaf; null: not labelled
    ]
)
"""A raw file of the sample catalog."""

Fault = Literal["no_description", "no_image", "broken_image", "wrong_label", "no_label"]
Oddity = Literal["same_content", "same_image", "no_id", "same_id", "empty"]

SHARES: Mapping[Fault | Oddity, float] = {
    "no_description": 0.35,
    "no_image": 0.05,
    "broken_image": 0.003,  # a cut JPEG, or a web server's error page
    "wrong_label": 0.02,  # another leaf, as popular as any product's
    "no_label": 0.03,
    "same_content": 0.01,  # title, description and image of an earlier row under an id of its own
    "same_image": 0.003,  # an earlier row's image and leaf with words of its own
    "no_id": 0.0007,
    "same_id": 0.0007,  # the id of an earlier row
    "empty": 0.0006,  # neither title, description nor image
}
"""Expected share of the rows that have each fault; a row has at most one `Oddity`."""

_ODDITIES: tuple[Oddity, ...] = ("same_content", "same_image", "no_id", "same_id", "empty")

_POPULARITY = (
    *("Novels", "Sneakers", "T-shirts", "Sofas", "Shampoos", "Smartphones", "Mugs", "Dresses"),
    *("Comics", "Headphones", "Boots", "Trousers", "Lamps", "Armchairs", "Saucepans", "Shower gels"),
    *("Tables", "Cookbooks", "Sandals", "Keyboards", "Conditioners", "Tablets", "Kettles", "Benches"),
)
_ZIPF_EXPONENT, _ZIPF_OFFSET = 1.8, 3  # from 22 % down to 0.7 %
_WEIGHTS = [(rank + _ZIPF_OFFSET) ** -_ZIPF_EXPONENT for rank in range(1, len(_POPULARITY) + 1)]
LEAF_SHARES: Mapping[str, float] = {
    leaf: weight / sum(_WEIGHTS) for leaf, weight in zip(_POPULARITY, _WEIGHTS, strict=True)
}
"""Leaf -> expected share of the products, largest first: Zipf-Mandelbrot, (rank + 3) ** -1.8."""
_CUMULATIVE = list(accumulate(LEAF_SHARES.values()))

_ERROR_PAGE = b"<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What a row shows, before its id and its label."""

    leaf: str
    title: str | None
    description: str | None
    image: bytes | None


def sample_batches(*, rows: int, seed: int, start: int = 0, batch_rows: int = 1000) -> Iterator[pa.RecordBatch]:
    """Rows `start` to `start + rows` of the sample catalog of `seed`, schema `SAMPLE`, `batch_rows` at a time.

    Streams: no more than one batch (about 2 kB a row) is held. `InputError` when an argument is out of range.
    """
    if rows < 0 or start < 0 or batch_rows < 1:
        found = f"rows {rows}, start {start}, batch_rows {batch_rows}"
        raise InputError(f"sample catalog: {found}: expected rows and start from 0, batch_rows from 1")
    return (
        _batch(seed, first, min(first + batch_rows, start + rows)) for first in range(start, start + rows, batch_rows)
    )


def write_sample(folder_uri: str, *, rows: int, seed: int, rows_per_file: int = 10_000) -> list[str]:
    """Write the sample catalog as Parquet files named by seed and row range; returns their URIs in row order.

    A file that is already there is not drawn again. A file gets its name when it is complete, so a killed run leaves
    none that is cut. Files of another `rows` or `rows_per_file` stay: read the returned URIs, not the folder.

    Args:
        folder_uri: a local folder, made when missing, or any URI fsspec knows (`s3://bucket/prefix`).
        rows: rows in all.
        seed: seed of the catalog.
        rows_per_file: rows of each file; the last one holds the rest.
    """
    if rows < 1 or rows_per_file < 1:
        raise InputError(f"sample catalog: rows {rows}, rows_per_file {rows_per_file}: expected 1 or more of each")
    folder = normalise_uri(folder_uri)
    filesystem, root = filesystem_of(folder)
    names = []
    try:
        make_folder(folder)
        for first in range(0, rows, rows_per_file):
            end = min(first + rows_per_file, rows)
            names.append(f"sample-seed{seed}-{first:09d}-{end:09d}.parquet")
            if not filesystem.exists(f"{root}/{names[-1]}"):
                batches = sample_batches(rows=end - first, seed=seed, start=first)
                _write_file(filesystem, root, names[-1], batches)
    except OSError as error:
        raise InputError(f"sample catalog: cannot write to {folder}: {error}") from error
    return [f"{folder}/{name}" for name in names]


def _write_file(
    filesystem: fsspec.AbstractFileSystem, folder: str, name: str, batches: Iterator[pa.RecordBatch]
) -> None:
    """Write a hidden file, then give it its name: one step on a local disk, a copy in an object store."""
    part = f"{folder}/.{name}.{uuid.uuid4().hex}.part"
    try:
        with filesystem.open(part, "wb") as file, pq.ParquetWriter(file, SAMPLE) as writer:
            for batch in batches:
                writer.write_batch(batch)
        filesystem.mv(part, f"{folder}/{name}")
    finally:
        if filesystem.exists(part):
            filesystem.rm(part)


def _batch(seed: int, first: int, end: int) -> pa.RecordBatch:
    """Rows `first` to `end`."""
    contents = [_content(seed, row) for row in range(first, end)]
    columns = {
        "product_id": [_product_id(seed, row) for row in range(first, end)],
        "title": [content.title for content in contents],
        "description": [content.description for content in contents],
        "image": [content.image for content in contents],
        "category_path": [_label(seed, first + at, content.leaf) for at, content in enumerate(contents)],
    }
    return pa.RecordBatch.from_pydict(columns, schema=SAMPLE)


def _stream(seed: int, row: int, purpose: str) -> Random:
    """Random numbers of one row for one purpose; `Random` hashes a text seed with SHA-512."""
    return Random(f"{seed}/{row}/{purpose}")


def _oddity(seed: int, row: int) -> tuple[Oddity | None, int]:
    """What is odd about a row, and the earlier row that it repeats where it repeats one."""
    rng = _stream(seed, row, "oddity")
    at, earlier = rng.random(), int(rng.random() * row)
    for kind in _ODDITIES if row else ():
        at -= SHARES[kind]
        if at < 0:
            return kind, earlier
    return None, row


def _content(seed: int, row: int) -> _Content:
    """The row's content, drawn or repeated."""
    oddity, earlier = _oddity(seed, row)
    if oddity == "same_content":
        return _content(seed, earlier)
    repeated = _content(seed, earlier) if oddity == "same_image" else None
    rng = _stream(seed, row, "content")
    leaf = repeated.leaf if repeated else rng.choices(_POPULARITY, cum_weights=_CUMULATIVE)[0]
    if oddity == "empty":
        return _Content(leaf=leaf, title=None, description=None, image=None)
    product = draw_product(leaf=leaf, rng=rng)
    title, description = write_title(product, rng), write_description(product, rng)
    return _Content(
        leaf=leaf,
        title=title,
        description=None if rng.random() < SHARES["no_description"] else description,
        image=repeated.image if repeated else _image(leaf, product.colour, _stream(seed, row, "image")),
    )


def _image(leaf: str, colour: int, rng: Random) -> bytes | None:
    """The picture's file: usually a JPEG, at times missing or broken."""
    at = rng.random() - SHARES["no_image"]
    if at < 0:
        return None
    picture = draw_picture(leaf=leaf, colour=COLOURS[colour][2], rng=rng)
    if at >= SHARES["broken_image"]:
        return picture
    return _ERROR_PAGE if rng.random() < 0.5 else picture[: len(picture) // 2]


def _product_id(seed: int, row: int) -> str | None:
    oddity, earlier = _oddity(seed, row)
    if oddity == "no_id":
        return None
    return f"P{earlier if oddity == 'same_id' else row:09d}"


def _label(seed: int, row: int, leaf: str) -> list[str] | None:
    """The row's category path as somebody filed it."""
    rng = _stream(seed, row, "label")
    at = rng.random() - SHARES["no_label"]
    if at < 0:
        return None
    filed = leaf
    while at < SHARES["wrong_label"] and filed == leaf:
        filed = rng.choices(_POPULARITY, cum_weights=_CUMULATIVE)[0]
    return [DEPARTMENTS[filed], filed]
