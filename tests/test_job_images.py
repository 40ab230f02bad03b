"""Ingest of a catalog whose images lie beside it, elsewhere and on the web."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mmbatch.catalog import Catalog, digest
from mmbatch.quarantine import quarantine_table
from mmbatch.workspace import Workspace
from tests.conftest import ROOT, run_job
from tests.image_server import BODY, Server, serving

COLUMNS = ("--columns", "id=id", "title=title", "label=label", "image=image")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def write_catalog(folder: Path, images: dict[str, str]) -> Path:
    folder.mkdir()
    with (folder / "catalog.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "label", "image"])
        writer.writerows([name, f"title of {name}", "a", image] for name, image in images.items())
    return folder / "catalog.csv"


def ingest(workspace: Path, source: Path, *images_from: object) -> tuple[dict[str, Any], str]:
    flags = ("--images-from", *images_from) if images_from else ()
    done = run_job("ingest", "--workspace", workspace, "--source", source, *COLUMNS, *flags, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["counts"], done.stderr


def rejected(workspace: Path) -> dict[str, tuple[str, str]]:
    table = quarantine_table(Workspace.open(str(workspace)))
    return {row["product_id"]: (row["reason"], row["message"]) for row in table.read().to_pylist()}


def image_of(workspace: Path, uri: str) -> list[Any]:
    catalog = Catalog(workspace=Workspace.open(str(workspace)))
    (row,) = [row for row in catalog.table.read().to_pylist() if row["image_uri"] == uri]
    content = catalog.content("image", row["bucket"], pa.array([row["image_hash"]]))
    return content.select(["content_hash", "image", "reason"]).to_pylist()


def test_images_from_everywhere(tmp_path: Path, server: Server) -> None:
    (tmp_path / "outside.jpg").write_bytes(BODY)
    site = server.site
    source = write_catalog(
        tmp_path / "source",
        {
            "beside": "own.jpg",
            "web": f"{site}/good/1.jpg?sig=secret",
            "busy": f"{site}/busy/0",
            "moved": f"{site}/redirect/good",
            "gone": f"{site}/status/404?sig=secret",
            "broken": f"{site}/status/500",
            "inward": f"{site}/redirect/private",
            "elsewhere": "http://127.0.0.1:1/a.jpg?sig=secret",
            "secretive": f"{site.replace('//', '//user:secret@')}/good",
            "outside": "../outside.jpg",
            "absolute": "/etc/hostname",
        },
    )
    (tmp_path / "source" / "own.jpg").write_bytes(BODY)
    workspace = tmp_path / "w"
    counts, log = ingest(workspace, source, site)
    assert (counts["rows"], counts["new"], counts["rejected"]) == (11, 11, 0)
    found = rejected(workspace)
    assert {name: reason for name, (reason, _) in found.items()} == {
        "gone": "image_missing",
        "broken": "image_http_status",
        "inward": "image_forbidden",
        "elsewhere": "image_forbidden",
        "secretive": "image_forbidden",
        "outside": "image_forbidden",
        "absolute": "image_forbidden",
    }
    assert "secret" not in log + "".join(message for _, message in found.values())

    server.shutdown()
    stored = [{"content_hash": digest(BODY), "image": BODY, "reason": None}]
    for uri in (f"{site}/good/1.jpg?sig=secret", f"{site}/redirect/good", f"{tmp_path}/source/own.jpg"):
        assert image_of(workspace, uri) == stored  # the web is not asked again
    asked = len(server.asked)
    assert "nothing new" in ingest(workspace, source, site)[1]
    assert len(server.asked) == asked


@pytest.mark.slow
def test_a_wider_permission_reads_the_source_again(tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(BODY)
    source = write_catalog(tmp_path / "source", {"outside": "../outside.jpg", "none": ""})
    assert ingest(tmp_path / "w", source)[0]["new"] == 2
    assert rejected(tmp_path / "w")["outside"][0] == "image_forbidden"
    counts, _ = ingest(tmp_path / "w", source, tmp_path)
    assert (counts["edited"], counts["unchanged"]) == (1, 1)
    assert image_of(tmp_path / "w", f"{tmp_path}/source/../outside.jpg")[0]["image"] == BODY


@pytest.mark.parametrize(
    "value", ["none", "http://img.example", "ftp://img.example", "https://user:secret@img.example"]
)
def test_a_bad_value_is_refused_before_anything_is_made(value: str, tmp_path: Path) -> None:
    source = write_catalog(tmp_path / "source", {"a": "a.jpg"})
    flags = ("--workspace", tmp_path / "w", "--source", source, *COLUMNS, "--images-from", value)
    done: subprocess.CompletedProcess[str] = run_job("ingest", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --images-from ")
    assert "secret" not in done.stderr
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_workers_share_what_is_stored_from_the_web(tmp_path: Path, server: Server) -> None:
    names = {name: f"{server.site}/good/{name}" for name in ("a", "b")}
    source = write_catalog(tmp_path / "source", names)
    assert ingest(tmp_path / "w", source, server.site)[0]["new"] == 2
    asked = len(server.asked)
    source.write_text(source.read_text().replace("title of a", "another title"))
    counts, _ = ingest(tmp_path / "w", source, server.site)
    assert (counts["edited"], counts["unchanged"], counts["part_reasons"]) == (1, 1, {})
    assert len(server.asked) == asked == 2


@pytest.mark.slow
def test_a_killed_ingest_downloads_nothing_again_that_it_had(tmp_path: Path, server: Server) -> None:
    batch, more = 1_000, 20  # rows that are downloaded and kept at a time, and rows of the next batch
    server.together = more + 1  # so that these wait for the kill
    good = {f"g{number}": f"{server.site}/photo/{number}.jpg" for number in range(batch)}
    server.photos = {f"{number}.jpg": BODY + b"%d" % number for number in range(batch)}
    slow = {f"s{number}": f"{server.site}/together/{number}" for number in range(more)}
    source = write_catalog(tmp_path / "source", good | slow)
    flags = ("--workspace", tmp_path / "w", "--source", source, *COLUMNS, "--images-from", server.site)
    command = [sys.executable, "-m", "jobs.ingest", *map(str, flags)]
    job = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (server.under_way and list(tmp_path.glob("w/downloads/*.parquet"))):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    server.released.set()

    counts, _ = ingest(tmp_path / "w", source, server.site)
    assert (counts["new"], counts["part_reasons"]) == (batch + more, {})
    assert len(set(good.values())) == sum(path.startswith("/photo") for path, _ in server.asked) == batch
    assert sum(path.startswith("/together") for path, _ in server.asked) <= 2 * more
    (found,) = image_of(tmp_path / "w", good["g7"])
    assert found == {"content_hash": digest(BODY + b"7"), "image": BODY + b"7", "reason": None}
    assert not (tmp_path / "w" / "downloads").exists()
