"""Makes catalogs for the benchmarks, as folders of Parquet files in the columns of the presets.

    python -m benchmarks.catalogs copies    --source FILE.parquet --out DIR [--copies N]
    python -m benchmarks.catalogs synthetic --out DIR --rows N [--bad-share 0.01]
    python -m benchmarks.catalogs edit      --source DIR --out DIR [--percent 1] [--seed 0]

copies     a real catalog N times over, no id, text or image file twice: what is encoded once must not shrink the work.
           Pixels stay as they are, since the bytes that differ stand after the JPEG's end. Products without image or
           title are left out.
synthetic  text-only products; with --bad-share, rows with every fault of docs/quarantine.md that a file can hold
edit       another folder's catalog with a share of its titles edited
"""

import argparse
import json
import os
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COPY_ROWS = 250
"""Rows of a row group with images, about 4 MB."""

SYNTHETIC_ROWS = 100_000
"""Rows of a synthetic file, and at most 25,000 in a row group."""

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

_ADJECTIVES = ["black", "blue", "cotton", "digital", "foldable", "leather", "organic", "portable", "steel", "wireless"]
_NOUNS = ["adapter", "backpack", "charger", "desk", "earring", "fan", "guitar", "hammer", "jacket", "kettle", "lamp"]
_LEAVES = 5


def _cut_png(side: int) -> bytes:
    """A PNG that says it is `side` pixels wide and high, and ends where its pixels begin."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 8192) + b"IDAT"


BAD_IMAGES: Mapping[str, Mapping[str, Any]] = {
    "image_missing": {"path": "no/such/file.jpg"},
    "image_unreadable": {"path": "folder.jpg"},
    "image_forbidden": {"path": "https://shop.example/photo.jpg"},
    "image_empty": {"bytes": b""},
    "image_unknown_format": {"bytes": b"<html>not found</html>"},
    "image_truncated": {"bytes": _cut_png(64)},
    "image_too_large": {"bytes": _cut_png(100_000)},
}
"""Reason code -> image that earns it."""

BAD_ROWS = ("no_id", "duplicate_id", "no_content", "undecodable_text", "bad_label", *BAD_IMAGES, "malformed_row")
"""The faults of synthetic bad rows, in turn; the last one stands in a CSV file of its own."""


def copies(source: str, out: Path, *, number: int) -> dict[str, int]:
    """Write the copies, one file each."""
    rows = pq.read_table(source, columns=["product_id", "title", "description", "image", "category_path"])
    rows = rows.filter(pc.and_(pc.is_valid(rows["image"]), pc.is_valid(rows["title"]))).combine_chunks()
    images = rows["image"].to_pylist()
    for copy in range(number):
        mark = pa.array([f"{copy}-{row}" for row in range(rows.num_rows)])
        image = pa.array([blob + f"{copy}-{row}".encode() for row, blob in enumerate(images)], pa.binary())
        columns = {name: rows[name] for name in rows.column_names} | {
            "product_id": pc.binary_join_element_wise(rows["product_id"], mark, "-"),
            "title": pc.binary_join_element_wise(rows["title"], mark, " "),
            "image": image,
        }
        pq.write_table(pa.table(columns), out / f"part-{copy:05d}.parquet", row_group_size=COPY_ROWS)
    return {"rows": number * rows.num_rows}


def synthetic(out: Path, *, rows: int, bad_share: float = 0.0) -> dict[str, int]:
    """Write the products; returns `rows` and, by reason code, how many of them are to be found in quarantine."""
    every = round(1 / bad_share) if bad_share else rows + 1
    expected: Counter[str] = Counter()
    if bad_share:
        (out / BAD_IMAGES["image_unreadable"]["path"]).mkdir()
    for part, start in enumerate(range(0, rows, SYNTHETIC_ROWS)):
        number = np.arange(start, min(rows, start + SYNTHETIC_ROWS))
        fault = np.where(number % every == every - 1, number // every % len(BAD_ROWS), -1)
        malformed = fault == BAD_ROWS.index("malformed_row")
        _write_malformed(number[malformed], out / f"part-{part:05d}.csv")
        products = _spoil(_products(number), number, fault).filter(pa.array(~malformed))
        pq.write_table(products, out / f"part-{part:05d}.parquet", row_group_size=SYNTHETIC_ROWS // 4)
        expected.update({name: int((fault == kind).sum()) for kind, name in enumerate(BAD_ROWS)})
    return {"rows": rows, **{reason: count for reason, count in sorted(expected.items()) if count}}


def _products(number: np.ndarray) -> pa.Table:
    """Good products, one for each number."""
    text = pa.array(number).cast(pa.string())
    adjectives = pa.array(_ADJECTIVES).take(pa.array(number % len(_ADJECTIVES)))
    noun = number // len(_ADJECTIVES) % len(_NOUNS)
    nouns = pa.array(_NOUNS).take(pa.array(noun))
    leaves = pa.array(number % _LEAVES).cast(pa.string())
    names = pa.concat_arrays([nouns, pc.binary_join_element_wise(nouns, leaves, " ")])
    levels = names.take(pa.array(np.arange(2 * len(number)).reshape(2, -1).T.ravel()))
    return pa.table(
        {
            "product_id": pc.binary_join_element_wise("p", text, ""),
            "title": pc.binary_join_element_wise(adjectives, nouns, text, " "),
            "description": pc.binary_join_element_wise("A", adjectives, nouns, "for every day", " "),
            "image": pa.nulls(len(number), IMAGE),
            "category_path": pa.ListArray.from_arrays(np.arange(0, 2 * len(number) + 1, 2, dtype=np.int32), levels),
        }
    )


def _spoil(products: pa.Table, number: np.ndarray, fault: np.ndarray) -> pa.Table:
    """The products with the fault (index of `BAD_ROWS`, -1: none) of each row."""

    def where(name: str) -> pa.Array:
        return pa.array(fault == BAD_ROWS.index(name))

    before = pc.binary_join_element_wise("p", pa.array(number - 1).cast(pa.string()), "")
    not_utf8 = pc.cast(pa.array([b"caf\xe9"]), options=pc.CastOptions(pa.string(), allow_invalid_utf8=True))[0]
    no_id, no_content, title = where("no_id"), where("no_content"), products["title"]
    ids = pc.if_else(where("duplicate_id"), before, products["product_id"])
    spoilt = {
        "product_id": pc.if_else(no_id, None, ids),
        "title": pc.if_else(no_content, None, pc.if_else(where("undecodable_text"), not_utf8, title)),
        "description": pc.if_else(no_content, None, products["description"]),
        "image": _bad_images(fault) if (fault >= 0).any() else products["image"],
        "category_path": pc.if_else(where("bad_label"), pa.scalar(["toys", "", "bricks"]), products["category_path"]),
    }
    return pa.table(spoilt)


def _bad_images(fault: np.ndarray) -> pa.Array:
    """The image of each row: null but for the faults of `BAD_IMAGES`."""
    kinds = [
        {"bytes": None, "path": None} | dict(BAD_IMAGES[name]) if name in BAD_IMAGES else None for name in BAD_ROWS
    ]
    return pa.array(kinds, IMAGE).take(pa.array(fault, mask=fault < 0))


def _write_malformed(number: np.ndarray, file: Path) -> None:
    """A CSV file of rows with one column too few."""
    if len(number):
        lines = ["product_id,title,description,image,category_path", *(f"p{n},kettle,,kitchen" for n in number)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def edit(source: Path, out: Path, *, percent: float, seed: int) -> dict[str, int]:
    """Write the source's Parquet files anew, the share of titles drawn from `seed` edited."""
    files = sorted(source.glob("*.parquet"))
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    chosen = np.zeros(rows, bool)
    chosen[np.random.default_rng(seed).choice(rows, round(rows * percent / 100), replace=False)] = True
    titles: list[pa.Array] = []
    start = 0
    for file in files:
        table = pq.read_table(file)
        mask = pa.array(chosen[start : start + table.num_rows])
        edited = pc.binary_join_element_wise(table["title"], f"edited {seed}", " ")
        titles.append(edited.filter(mask).combine_chunks())
        table = table.set_column(
            table.schema.get_field_index("title"), "title", pc.if_else(mask, edited, table["title"])
        )
        pq.write_table(table, out / file.name, row_group_size=pq.read_metadata(file).row_group(0).num_rows)
        start += len(mask)
    return {"rows": rows, "edited": int(chosen.sum()), "distinct": len(pc.unique(pa.concat_arrays(titles)))}


def main() -> None:
    """Make one catalog and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("copies", "synthetic", "edit"):
        kinds.add_parser(kind).add_argument("--out", required=True, type=Path, help="new folder")
    kinds.choices["copies"].add_argument("--source", required=True)
    kinds.choices["copies"].add_argument("--copies", type=int, default=1)
    kinds.choices["synthetic"].add_argument("--rows", type=int, required=True)
    kinds.choices["synthetic"].add_argument("--bad-share", type=float, default=0.0)
    kinds.choices["edit"].add_argument("--source", required=True, type=Path)
    kinds.choices["edit"].add_argument("--percent", type=float, default=1.0)
    kinds.choices["edit"].add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True)
    if flags.kind == "copies":
        figures = copies(flags.source, flags.out, number=flags.copies)
    elif flags.kind == "synthetic":
        figures = synthetic(flags.out, rows=flags.rows, bad_share=flags.bad_share)
    else:
        figures = edit(flags.source, flags.out, percent=flags.percent, seed=flags.seed)
    print(f"{flags.kind}: {figures['rows']:,} products in {os.path.relpath(flags.out)}", file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
