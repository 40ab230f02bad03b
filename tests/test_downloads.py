from pathlib import Path

import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.catalog import STAGED, Catalog, digest, stage
from mmbatch.downloads import Downloads
from mmbatch.held_images import HeldImages
from mmbatch.workspace import Settings, Workspace

BUCKETS = 2


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    settings = Settings(preset="sample", level=1, seed=0, buckets=BUCKETS)
    return Workspace.create(str(tmp_path / "w"), settings)


def staged(*rows: dict[str, object]) -> pa.Table:
    nothing = dict.fromkeys(schema.SOURCE.names) | {"deleted": False, "title": "t"}
    full = [nothing | row | {"position": place} for place, row in enumerate(rows)]
    return stage(pa.Table.from_pylist(full, schema=schema.SOURCE), source="f", unit=0, buckets=BUCKETS)


def web(number: int) -> dict[str, object]:
    return {"product_id": f"p{number}", "image": b"%d" % number, "image_uri": f"https://h/{number}.jpg"}


def test_web_images_are_kept_aside_and_others_stay_in_their_rows(workspace: Workspace) -> None:
    downloads = Downloads.of(workspace)
    rows = staged(web(1), {"product_id": "inside", "image": b"i"}, {"product_id": "none"}, web(2))
    left = downloads.keep("run-0-0", rows)
    assert left.schema == STAGED
    assert left["image"].to_pylist() == [None, b"i", None, None]
    assert left.drop_columns("image").equals(rows.drop_columns("image"))
    (records,) = downloads.records()
    assert sorted(records["product_id"].to_pylist()) == ["p1", "p2"]
    hashes = pa.array([digest(b"1"), digest(b"2")])
    found = [row for bucket in range(BUCKETS) for row in downloads.images(bucket, hashes).to_pylist()]
    assert sorted((row["image_hash"], row["image"]) for row in found) == sorted(
        [(digest(b"1"), b"1"), (digest(b"2"), b"2")]
    )
    assert not downloads.images(0, pa.array([], pa.string())).num_rows
    downloads.remove()
    assert not Path(downloads.folder).exists()
    downloads.remove()


def test_rows_without_web_images_write_nothing(workspace: Workspace) -> None:
    rows = staged({"product_id": "inside", "image": b"i"})
    assert Downloads.of(workspace).keep("run-0-0", rows) is rows
    assert not Path(Downloads.of(workspace).folder).exists()
    assert not Downloads.of(workspace).images(0, pa.array(["x"])).num_rows


def test_what_was_downloaded_is_held_though_no_catalog_has_it(workspace: Workspace) -> None:
    downloads = Downloads.of(workspace)
    downloads.keep("killed-0-0", staged(web(1), web(2)))
    downloads.keep("killed-0-1", staged(web(3)))
    held = HeldImages.of(Catalog(workspace=workspace))
    ids, uris = ["p1", "p2", "p3", "p4"], [f"https://h/{number}.jpg" for number in (1, 2, 3, 4)]
    assert held.find(ids, uris) == [digest(b"1"), digest(b"2"), digest(b"3"), None]


def test_a_file_that_a_kill_left_half_written_counts_for_nothing(workspace: Workspace) -> None:
    downloads = Downloads.of(workspace)
    downloads.keep("killed-0-0", staged(web(1)))
    (Path(downloads.folder) / ".killed-0-1.parquet.0f").write_bytes(b"PAR1")
    assert len(list(downloads.records())) == 1
