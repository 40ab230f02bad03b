"""The two snapshots of the drill's catalog: what the night finds done, and what it has to bring in."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmbatch.sample import SAMPLE, sample_batches

FILES = 3
"""Of the night's snapshot: parts of the source that workers read side by side."""


def write_sources(folder: Path, *, rows: int, seed: int) -> tuple[Path, Path]:
    """Write the snapshot of the day before and the night's; returns their folders.

    The night's has a fifth more rows; every seventh product is gone, every fifth has another title, every eleventh
    another image; some repeat a content under a new id; some have no id, an id that came before, nothing at all, or a
    file that is no image.
    """
    drawn = pa.Table.from_batches(sample_batches(rows=rows + rows // 5, seed=seed), SAMPLE)
    before = drawn.slice(0, rows)
    _write(folder / "before", [before])
    after = [_edited(row, number) for number, row in enumerate(drawn.to_pylist()) if number % 7 or number >= rows]
    after += [row | {"product_id": f"twin-{number}"} for number, row in enumerate(after[:: max(1, len(after) // 20)])]
    after += _bad_rows(after)
    table = pa.Table.from_pylist(after, schema=SAMPLE)
    size = -(-table.num_rows // FILES)
    _write(folder / "after", [table.slice(start, size) for start in range(0, table.num_rows, size)])
    return folder / "before", folder / "after"


def _edited(row: dict[str, object], number: int) -> dict[str, object]:
    edited = dict(row)
    if number % 5 == 0:
        edited["title"] = f"{row['title']} (new)"
    if number % 11 == 0 and isinstance(row["image"], bytes):
        edited["image"] = row["image"] + b"\0"  # decoders stop at the end of the picture
    return edited


def _bad_rows(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    nothing = dict.fromkeys(SAMPLE.names)
    return [
        rows[0] | {"product_id": None},
        rows[1] | {"title": "came before"},
        nothing | {"product_id": "nothing"},
        nothing | {"product_id": "no-image", "title": "a file that is no image", "image": b"<html>404</html>"},
        nothing | {"product_id": "cut-image", "title": "half an image", "image": _half_an_image(rows)},
    ]


def _half_an_image(rows: list[dict[str, object]]) -> bytes:
    image = next(row["image"] for row in rows if isinstance(row["image"], bytes))
    assert isinstance(image, bytes)
    return image[: len(image) // 2]


def _write(folder: Path, parts: list[pa.Table]) -> None:
    folder.mkdir(parents=True)
    for number, part in enumerate(parts):
        pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=200)
