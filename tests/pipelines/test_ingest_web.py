"""Web images night after night: what is stored is not asked for again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mmbatch.catalog import Catalog, digest
from mmbatch.image_access import ImageAccess
from mmbatch.pipelines.ingest import ingest
from mmbatch.sources import Columns
from mmbatch.workspace import Settings, Workspace
from tests.image_server import BODY, Server, serving

pytestmark = pytest.mark.usefixtures("in_process")

COLUMNS = Columns(id="id", title="title", image="image")

WriteCsv = Callable[..., Path]
Night = Callable[..., dict[str, Any]]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=2))


@pytest.fixture
def night(workspace: Workspace, server: Server, write_csv: WriteCsv) -> Night:
    """Ingests products, id -> (title, path of the image at the server), and returns the counts."""
    access, nights = ImageAccess.of([server.site]), iter(range(100))

    def ingested(**products: tuple[str, str]) -> dict[str, Any]:
        rows = [
            {"id": name, "title": title, "image": f"{server.site}{path}"} for name, (title, path) in products.items()
        ]
        file = write_csv(rows, f"night{next(nights)}.csv")
        counts: dict[str, Any] = ingest(workspace, source=str(file), columns=COLUMNS, access=access)["counts"]
        return counts

    return ingested


def images(workspace: Workspace) -> dict[str, bytes | None]:
    """The image of each product, as encoders get it."""
    catalog = Catalog(workspace=workspace)
    found: dict[str, bytes | None] = {}
    for row in catalog.keys().to_pylist():
        content = row["image_hash"] and catalog.content("image", row["bucket"], pa.array([row["image_hash"]]))
        found[row["product_id"]] = content["image"][0].as_py() if content else None
    return found


def test_the_same_products_again_make_no_request(night: Night, server: Server, workspace: Workspace) -> None:
    assert night(a=("t", "/good/a"), b=("t", "/good/b"))["new"] == 2
    assert len(server.asked) == 2
    assert night(a=("t", "/good/a"), b=("t", "/good/b"))["unchanged"] == 2
    counts = night(a=("another title", "/good/a"), b=("t", "/good/b"))
    assert (counts["edited"], counts["edited_fields"]["title"], counts["edited_fields"]["image"]) == (1, 1, 0)
    assert len(server.asked) == 2
    assert images(workspace) == {"a": BODY, "b": BODY}
    hashes = Catalog(workspace=workspace).keys()["image_hash"].to_pylist()
    assert hashes == [digest(BODY)] * 2


def test_a_changed_address_makes_one_request(night: Night, server: Server) -> None:
    night(a=("t", "/good/a"), b=("t", "/good/b"))
    assert night(a=("t", "/good/a?v=2"), b=("t", "/good/b"))["edited"] == 1
    assert [path for path, _ in server.asked[2:]] == ["/good/a?v=2"]


def test_the_address_of_another_product_is_asked(night: Night, server: Server, workspace: Workspace) -> None:
    night(a=("t", "/good/a"))
    assert night(a=("t", "/good/a"), z=("t", "/good/a"))["new"] == 1
    assert server.count("/good/a") == 2
    assert images(workspace) == {"a": BODY, "z": BODY}


def test_a_server_that_is_down_loses_no_image(night: Night, server: Server, workspace: Workspace) -> None:
    night(a=("t", "/good/a"), b=("t", "/good/b"))
    server.shutdown()
    server.server_close()
    counts = night(a=("edited", "/good/a"), b=("t", "/good/b"))
    assert (counts["edited"], counts["unchanged"], counts["part_reasons"]) == (1, 1, {})
    assert images(workspace) == {"a": BODY, "b": BODY}


def test_what_could_not_be_downloaded_is_tried_again(night: Night, server: Server, workspace: Workspace) -> None:
    for asked in (1, 2):
        assert night(a=("t", "/status/404"))["part_reasons"] == {"image_missing": 1}
        assert server.count("/status/404") == asked
    assert images(workspace) == {"a": None}


def test_a_stored_image_that_is_gone_is_downloaded_again(night: Night, server: Server, workspace: Workspace) -> None:
    night(a=("t", "/good/a"))
    table = Catalog(workspace=workspace).images
    table.replace([], table.files(), app_id="lost", read_version=table.version())
    night(a=("t", "/good/a"))
    assert server.count("/good/a") == 2
    assert images(workspace) == {"a": BODY}


def test_an_address_that_is_not_allowed_any_more_is_no_image(
    night: Night, server: Server, workspace: Workspace, write_csv: WriteCsv
) -> None:
    night(a=("t", "/good/a"))
    file = write_csv([{"id": "a", "title": "t", "image": f"{server.site}/good/a"}], "later.csv")
    counts = ingest(workspace, source=str(file), columns=COLUMNS)["counts"]
    assert counts["part_reasons"] == {"image_forbidden": 1}
    assert pc.all(pc.is_null(Catalog(workspace=workspace).keys()["image_hash"])).as_py()
