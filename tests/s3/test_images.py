"""Images that a catalog names by s3:// URIs, read at ingest and again at extraction."""

import io

import pyarrow as pa
import pytest
from PIL import Image

from mmbatch import schema
from mmbatch.catalog import Catalog, digest, merge, stage
from mmbatch.downloads import Downloads
from mmbatch.sources import Columns, list_files, plan_units, read_unit
from mmbatch.storage import S3_OPTIONS, StorageError, filesystem_of
from mmbatch.workspace import Settings, Workspace
from tests.s3.proxy import FaultProxy, fault_at

COLUMNS = Columns(id="id", title="title", image="image")


def jpeg(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (red, 0, 0)).save(file, "JPEG")
    return file.getvalue()


IMAGES = [jpeg(0), jpeg(99), jpeg(255)]


@pytest.fixture
def source(bucket: str) -> str:
    """A catalog in the bucket: three images, one that is missing, one with credentials."""
    filesystem, root = filesystem_of(bucket)
    for number, image in enumerate(IMAGES):
        filesystem.pipe_file(f"{root}/images/{number}.jpg", image)
    images = [f"{bucket}/images/{number}.jpg" for number in range(4)]
    images.append(images[0].replace("s3://", "s3://ME:SECRET@"))
    lines = ["id,title,image", *(f"{number},thing,{image}" for number, image in enumerate(images))]
    filesystem.pipe_file(f"{root}/catalog.csv", "\n".join(lines).encode())
    return f"{bucket}/catalog.csv"


def read(source: str) -> tuple[pa.Table, list[tuple[int, str]]]:
    (unit,) = plan_units(list_files(source), COLUMNS)
    batches = list(read_unit(unit, COLUMNS))
    rejects = pa.concat_tables([batch.rejects for batch in batches])
    assert "SECRET" not in str(rejects["message"].to_pylist())
    reasons = zip(rejects["position"].to_pylist(), rejects["reason"].to_pylist(), strict=True)
    return pa.concat_tables([batch.rows for batch in batches]), sorted(reasons)


def test_images_are_read_at_ingest_and_at_extraction(source: str, bucket: str) -> None:
    rows, rejects = read(source)
    assert rows["image"].to_pylist() == [*IMAGES, None, None]
    assert rejects == [(3, "image_missing"), (4, "image_forbidden")]
    workspace = Workspace.create(f"{bucket}/w", Settings(preset="sample", level=1, seed=0, buckets=1))
    catalog = Catalog(workspace=workspace)
    merged = merge(catalog.table.read(), stage(rows, source=source, unit=0, buckets=1))
    catalog.table.commit([catalog.table.write_file(merged.rows, bucket=0)], app_id="ingest")
    hashes = pa.array([digest(image) for image in IMAGES])
    assert catalog.content("image", 0, hashes)["image"].to_pylist() == IMAGES


@pytest.mark.parametrize("fault", ["cut", "reset", "slow_down"])
def test_a_disturbed_image_is_read_again_not_rejected(fault: str, source: str, faulty: FaultProxy) -> None:
    faulty.plan = fault_at(r"images/[012]\.jpg", fault, method="GET", times=2)
    assert read(source)[0]["image"].to_pylist()[:3] == IMAGES
    assert faulty.injected == {fault: 2}


def test_an_outage_stops_the_run_and_rejects_no_product(
    source: str, faulty: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = S3_OPTIONS | {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
    monkeypatch.setattr("mmbatch.storage.S3_OPTIONS", once)
    faulty.plan = fault_at("images/1", "slow_down", method="GET", times=100)
    with pytest.raises(StorageError, match="SlowDown"):
        read(source)


def test_downloads_are_kept_until_they_are_removed(bucket: str) -> None:
    settings = Settings(preset="sample", level=1, seed=0, buckets=1)
    downloads = Downloads.of(Workspace.create(f"{bucket}/w", settings))
    nothing = dict.fromkeys(schema.SOURCE.names) | {"deleted": False, "position": 0, "title": "t"}
    row = nothing | {"product_id": "p", "image": b"1", "image_uri": "https://h/1.jpg"}
    rows = stage(pa.Table.from_pylist([row], schema=schema.SOURCE), source="f", unit=0, buckets=1)
    assert downloads.keep("run-0-0", rows)["image"].to_pylist() == [None]
    assert [record["product_id"].to_pylist() for record in downloads.records()] == [["p"]]
    assert downloads.images(0, pa.array([digest(b"1")]))["image"].to_pylist() == [b"1"]
    downloads.remove()
    assert not list(downloads.records())
