"""Every way a row can be bad, and odd rows that are good, through one real ingest; then a night with a bad image."""

import io
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from mmbatch.catalog import Catalog
from mmbatch.images import MAX_IMAGE_BYTES, open_rgb
from mmbatch.predictions import Predictions
from mmbatch.quarantine import quarantine_table
from mmbatch.runs import last_run
from mmbatch.workspace import Workspace
from tests.conftest import run_json

MEGABYTE = b"a very long title " * 58_255
"""1 MiB."""

RED, GREEN = (255, 0, 0), (0, 255, 0)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def bomb() -> bytes:
    """A PNG of 70 bytes whose header promises ten thousand million pixels."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
GREY_16 = Image.fromarray(np.full((6, 4), 0x80FF, np.uint16))
JPEG = encoded(NOISE, "JPEG")

FILES: dict[str, bytes] = {
    "good.jpg": JPEG,
    "cut.jpg": JPEG[: len(JPEG) // 2],
    "cut.png": encoded(NOISE, "PNG")[:-200],
    "page.jpg": b"<!DOCTYPE html><title>404 Not Found</title>",
    "empty.jpg": b"",
    "bomb.png": bomb(),
    "cmyk.jpg": encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"),
    "grey16.png": encoded(GREY_16, "PNG"),
    "moving.gif": encoded(
        Image.new("RGB", (5, 5), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (5, 5), GREEN)]
    ),
    "dot.png": encoded(Image.new("RGB", (1, 1), GREEN), "PNG"),
    "line.png": encoded(Image.new("RGB", (20_000, 2), RED), "PNG"),
}


class Bad(NamedTuple):
    """A raw row (id, title, photo, label), and what it is found to be."""

    what: str
    row: list[bytes]
    reason: str
    modality: str | None
    """None: rejected whole."""


def bad_image(what: str, photo: str, reason: str) -> Bad:
    return Bad(what, [what.encode(), b"a title", photo.encode(), b"toys"], reason, "image")


def bad_rows(elsewhere: Path) -> list[Bad]:
    return [
        bad_image("truncated JPEG", "cut.jpg", "image_truncated"),
        bad_image("truncated PNG", "cut.png", "image_truncated"),
        bad_image("wrong magic", "page.jpg", "image_unknown_format"),
        bad_image("zero bytes", "empty.jpg", "image_empty"),
        bad_image("decompression bomb", "bomb.png", "image_too_large"),
        bad_image("large file", "large.jpg", "image_too_large"),
        bad_image("missing file", "none.jpg", "image_missing"),
        bad_image("folder", "folder", "image_unreadable"),
        bad_image("forbidden path", str(elsewhere), "image_forbidden"),
        bad_image("way out", f"../{elsewhere.parent.name}/{elsewhere.name}", "image_forbidden"),
        bad_image("forbidden scheme", "ftp://host/x.jpg", "image_forbidden"),
        Bad("empty text", [b"empty text", b" \t ", b"", b"toys"], "no_content", None),
        Bad("nothing but a bad image", [b"bad", b"", b"none.jpg", b"toys"], "no_content", None),
        Bad("invalid UTF-8", [b"utf8", b"caf\xe9", b"", b"toys"], "undecodable_text", None),
        Bad("duplicate id", [b"good", b"another", b"", b"toys"], "duplicate_id", None),
        Bad("no id", [b"", b"a title", b"good.jpg", b"toys"], "no_id", None),
        Bad("blank id", [b"\x07 ", b"a title", b"good.jpg", b"toys"], "no_id", None),
        Bad("bad label", [b"label", b"a title", b"", b"toys > dolls"], "bad_label", "label"),
        Bad("malformed row", [b"malformed", b"a, title"], "malformed_row", None),
    ]


GOOD: dict[str, tuple[bytes, str]] = {
    "good": (b"a title", "good.jpg"),
    "megabyte": (MEGABYTE, ""),
    "control": (b"one\x00two\x1b[31m three", ""),
    **{name.partition(".")[0]: (b"a title", name) for name in list(FILES)[6:]},
}
"""Product id -> title and photo of the rows that a person expects to be taken."""


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Any], list[Bad]]:
    """The workspace, the counts that the job printed, and the bad rows of its source, which come after the good."""
    folder = tmp_path_factory.mktemp("shop")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.jpg"
    elsewhere.write_bytes(JPEG)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    with (folder / "large.jpg").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    bad = bad_rows(elsewhere)
    rows = [[key.encode(), title, photo.encode(), b"toys"] for key, (title, photo) in GOOD.items()]
    lines = [b"sku,name,photo,top", *(b",".join(row) for row in (*rows, *(one.row for one in bad)))]
    (folder / "catalog.csv").write_bytes(b"\n".join(lines) + b"\n")
    columns = ("id=sku", "title=name", "image=photo", "label=top")
    uri = str(tmp_path_factory.mktemp("bad") / "w")
    result = run_json("ingest", "--workspace", uri, "--source", folder / "catalog.csv", "--columns", *columns)
    return Workspace.open(uri), result["counts"], bad


Ingested = tuple[Workspace, dict[str, Any], list[Bad]]


def test_every_bad_row_is_found_by_its_reason_where_it_stands(ingested: Ingested) -> None:
    workspace, _, bad = ingested
    entries = {row["position"]: row for row in quarantine_table(workspace).read().to_pylist()}
    expected = {len(GOOD) + at: (one.reason, one.modality, one.what) for at, one in enumerate(bad)}
    found = {at: (row["reason"], row["modality"], expected.get(at, ("", "", ""))[2]) for at, row in entries.items()}
    assert found == expected
    assert all(row["message"] and len(row["message"]) < 500 for row in entries.values())
    products = set(Catalog(workspace=workspace).table.read(["product_id"])["product_id"].to_pylist())
    assert products == {*GOOD, *(one.row[0].decode() for one in bad if one.modality)}


def test_the_counts_tie_out_by_reason(ingested: Ingested) -> None:
    workspace, counts, bad = ingested
    assert counts["reasons"] == Counter(one.reason for one in bad if one.modality is None)
    assert counts["part_reasons"] == Counter(one.reason for one in bad if one.modality)
    assert sum(counts["reasons"].values()) == counts["rejected"]
    assert counts["rows"] == len(GOOD) + len(bad) == counts["new"] + counts["rejected"]
    assert counts["flawed"] == len(bad)
    run = last_run(workspace, "ingest")
    assert run is not None
    assert run["counts"] == counts


def test_a_long_text_is_stored_whole_and_control_characters_are_not(ingested: Ingested) -> None:
    rows = Catalog(workspace=ingested[0]).table.read(["product_id", "title"]).to_pylist()
    titles = {row["product_id"]: row["title"] for row in rows}
    assert titles["megabyte"] == MEGABYTE.decode().strip()
    assert titles["control"] == "one two [31m three"


@pytest.mark.parametrize(
    ("product", "size", "colour"),
    [
        ("cmyk", (8, 8), RED),
        ("grey16", (4, 6), (128, 128, 128)),
        ("moving", (5, 5), RED),
        ("dot", (1, 1), GREEN),
        ("line", (20_000, 2), RED),
    ],
)
def test_odd_images_decode_as_a_person_expects(
    product: str, size: tuple[int, int], colour: tuple[int, int, int], ingested: Ingested
) -> None:
    catalog = Catalog(workspace=ingested[0])
    keys = catalog.keys()
    [key] = keys.filter(pc.equal(keys["product_id"], product)).to_pylist()
    [content] = catalog.content("image", key["bucket"], pc.cast([key["image_hash"]], "string")).to_pylist()
    image = open_rgb(content["image"])
    assert image.size == size
    assert np.abs(np.asarray(image).reshape(-1, 3).mean(axis=0) - colour).max() < 3


@pytest.mark.slow
def test_a_product_with_a_broken_image_is_predicted_from_its_title_and_marked(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, write_csv: Callable[..., Path]
) -> None:
    workspace = shutil.copytree(finished[0], tmp_path / "w")
    rows = [
        {"sku": "broken", "name": "red leather shoes", "photo": "none.jpg"},
        {"sku": "plain", "name": "red leather shoes", "photo": ""},
    ]
    flags = ("--workspace", workspace)
    columns = ("--columns", "id=sku", "title=name", "image=photo")
    run_json("ingest", *flags, "--source", write_csv(rows), *columns)
    run_json("extract_features", *flags)
    assert run_json("predict", *flags)["counts"]["predicted"] == 2
    opened = Workspace.open(str(workspace))
    published = {row["product_id"]: row for row in Predictions(workspace=opened).table.read().to_pylist()}
    assert published["broken"]["quarantined"] == ["image"]
    assert published["plain"]["quarantined"] == []
    assert published["broken"]["category"] == published["plain"]["category"]
    assert published["broken"]["image_hash"] is None
    assert "small-image" not in dict(published["broken"]["model_categories"])

    Image.new("RGB", (32, 32), RED).save(tmp_path / "none.jpg")
    assert run_json("quarantine", *flags, "--reason", "image_missing", "--replay")["replay"]["ingest"]
    run_json("extract_features", *flags)
    assert run_json("predict", *flags)["counts"]["predicted"] == 1
    published = {row["product_id"]: row for row in Predictions(workspace=opened).table.read().to_pylist()}
    assert published["broken"]["quarantined"] == []
    assert published["broken"]["image_hash"]
