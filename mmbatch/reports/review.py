"""The review queue as a CSV file of all products and as one self-contained HTML page of the most urgent ones."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.file_writers import table_file
from mmbatch.reports.figures import MOST, thumbnail_jpeg
from mmbatch.reports.page import data_uri, no_picture, page_environment
from mmbatch.review import QUEUE, REASONS, Reason, Tally
from mmbatch.storage import make_folder, put_files

CSV_FILE, PAGE_FILE = "review.csv", "review.html"
QUEUE_FILE = "queue.parquet"
"""The queue with its own types, for programs."""

IMAGES = 64
"""Image files read at a time."""

CSV = pa.schema([field.with_type(pa.string()) if field.name == "reasons" else field for field in QUEUE])
"""Columns of the CSV file: those of the queue, the reasons joined by "; "."""

NAMES: Mapping[Reason, tuple[str, str]] = {
    "suspected_label": ("suspected label", "The given label is probably wrong."),
    "modality_conflict": ("text and image disagree", "Each is sure, of different categories."),
    "abstained": ("undecided", "No category is sure enough to be published."),
}
"""Reason -> what people call it, and what it means."""


class Picture(NamedTuple):
    """What the page shows of a product's image."""

    thumbnail: bytes | None
    """JPEG file; None: there is none to be shown."""
    missing: str
    """What stands in its place."""


@dataclass(frozen=True, kw_only=True)
class ReviewPage:
    """All that the page shows."""

    workspace: str
    predictor: str
    run_id: str
    products: int
    """Published predictions, whether in the queue or not."""
    tally: Tally
    """Of the whole queue."""
    rows: pa.Table
    """The products shown, `QUEUE`, by priority."""
    pictures: Mapping[str, Picture]
    """Product id -> its picture, of each product shown."""


class _Group(NamedTuple):
    """The products shown of one category."""

    category: str | None
    total: int
    reasons: tuple[str, ...]
    sources: tuple[tuple[str | None, tuple[str, ...], list[dict[str, Any]]], ...]
    """Source, reasons and products of each."""


def picture_of(image: bytes | None) -> Picture:
    """The picture of an image file, None where there is no image."""
    return Picture(None if image is None else thumbnail_jpeg(image), no_picture(image))


def pictures_of(catalog: Catalog, rows: pa.Table) -> dict[str, Picture]:
    """The pictures of products (`product_id`, `bucket`), by product id."""
    pictures = {product: picture_of(None) for product in rows["product_id"].to_pylist()}
    for bucket in sorted(set(rows["bucket"].to_pylist())):
        chosen = pc.field("product_id").isin(rows["product_id"].combine_chunks())
        keys = catalog.products().read(["product_id", "image_hash"], buckets=[bucket], filters=chosen)
        keys = keys.filter(pc.is_valid(keys["image_hash"]))
        for start in range(0, keys.num_rows, IMAGES):
            part = keys.slice(start, IMAGES)
            found = catalog.content("image", bucket, part["image_hash"].combine_chunks())
            for product, image in zip(part["product_id"].to_pylist(), found["image"], strict=True):
                pictures[product] = picture_of(image.as_py())
    return pictures


@contextmanager
def csv_file(uri: str) -> Iterator[Callable[[pa.Table], None]]:
    """Open a CSV file (`file_writers.table_file`), in a folder that is made; rows of the queue are appended to it."""
    make_folder(uri.rpartition("/")[0])
    with table_file(uri, CSV, named=uri) as append:
        yield lambda rows: append(_plain(rows))


def write_page(folder_uri: str, page: ReviewPage) -> str:
    """Write `review.html`, which loads nothing from anywhere, to a folder or `s3://` prefix; its URI."""
    return put_files(folder_uri, {PAGE_FILE: _html(page).encode()})[-1]


def _plain(rows: pa.Table) -> pa.Table:
    columns = {name: rows[name] for name in CSV.names}
    columns["reasons"] = pc.binary_join(rows["reasons"], "; ")
    return pa.table(columns, schema=CSV)


def _html(page: ReviewPage) -> str:
    rows = page.rows.to_pylist()
    return (
        page_environment()
        .get_template("review.html.j2")
        .render(
            page=page,
            names=NAMES,
            reasons=[reason for reason in REASONS if page.tally.reasons[reason]],
            shown=Counter(reason for row in rows for reason in row["reasons"]),
            categories=_table(page.tally.categories),
            sources=_table(page.tally.sources),
            most=MOST,
            groups=_groups(rows, page.tally),
            thumbnails={
                product: data_uri("image/jpeg", picture.thumbnail)
                for product, picture in page.pictures.items()
                if picture.thumbnail
            },
        )
    )


def _table(counts: Counter[str | None]) -> list[tuple[str | None, int]]:
    """The `MOST` most frequent ones."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0] or ""))[:MOST]


def _groups(rows: Sequence[dict[str, Any]], tally: Tally) -> list[_Group]:
    """Products by category and source; what holds the most urgent product comes first."""
    places: dict[str | None, int] = {}
    sources: dict[tuple[str | None, str | None], int] = {}
    for place, row in enumerate(rows):
        places.setdefault(row["category"], place)
        sources.setdefault((row["category"], row["source"]), place)

    def order(row: dict[str, Any]) -> tuple[int, int]:
        return places[row["category"]], sources[row["category"], row["source"]]

    groups = []
    for category, of_category in groupby(sorted(rows, key=order), key=lambda row: row["category"]):
        parts = []
        for source, of_source in groupby(of_category, key=lambda row: row["source"]):
            products = list(of_source)
            parts.append((source, _reasons(products), products))
        reasons = tuple(dict.fromkeys(reason for _, found, _ in parts for reason in found))
        groups.append(_Group(category, tally.categories[category], reasons, tuple(parts)))
    return groups


def _reasons(products: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reason for product in products for reason in product["reasons"]))
