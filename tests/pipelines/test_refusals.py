from datetime import UTC, datetime
from pathlib import Path

import pytest

from mmbatch.errors import InputError, RefusedToPublishError
from mmbatch.pipelines.refusals import SMALL_CATALOG, Removal, refuse_older, refuse_removal
from mmbatch.runs import Run
from mmbatch.workspace import Settings, Workspace

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def removal(products: int, removed: int, *, new: int = 0, known: int | None = None, snapshot: bool = True) -> Removal:
    known = products - removed if known is None else known
    counts = {"new": new, "edited": 0, "unchanged": known, "removed": removed}
    return Removal(products=products, counts=counts, snapshot=snapshot, new_id="n" if new else None, removed_id="r")


@pytest.mark.parametrize(
    "found",
    [
        removal(SMALL_CATALOG, SMALL_CATALOG // 2),
        removal(SMALL_CATALOG - 1, SMALL_CATALOG - 2),
        removal(0, 0, new=5),
        removal(10, 0, known=0),  # named, and not usable
        removal(10, 10, known=0, snapshot=False),  # a feed says so
        removal(10, 10, known=0, new=1),
    ],
)
def test_what_is_done(found: Removal) -> None:
    refuse_removal(found)


@pytest.mark.parametrize(
    ("found", "match"),
    [
        (
            removal(SMALL_CATALOG, 51),
            "remove 51 of 100 products, more than 50%: of the 49 ids in the source the catalog",
        ),
        (removal(SMALL_CATALOG, 51, new=60), "of the 109 ids .* knows 49; are ids .* catalog has 'r', the source 'n';"),
        (removal(1, 1), "--snapshot would remove 1 of 1 products: no row of the source can be used; deliver"),
        (
            removal(10_000, 9_000, snapshot=False),
            "the source's deletes would remove 9,000 of 10,000 .* the first one is",
        ),
    ],
)
def test_what_is_refused(found: Removal, match: str) -> None:
    with pytest.raises(RefusedToPublishError, match=match) as refused:
        refuse_removal(found)
    assert "\n" not in str(refused.value)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=1))


def ingested(workspace: Workspace, modified: datetime | None, *, snapshot: bool = True) -> None:
    settings = {"snapshot": snapshot, "columns": {"operation": None}}
    counts = {"modified": None if modified is None else modified.isoformat()}
    Run(workspace=workspace, job="ingest", settings=settings).finish(counts)


def test_only_what_came_in_order_is_compared(workspace: Workspace) -> None:
    older = NOON.replace(hour=11)
    refuse_older(workspace, "s", older)
    ingested(workspace, NOON)
    ingested(workspace, NOON.replace(hour=13), snapshot=False)
    refuse_older(workspace, "s", NOON)
    refuse_older(workspace, "s", None)
    with pytest.raises(
        InputError, match=r"^s: last modified 2026-01-31 11:00:00 UTC, older .* 2026-01-31 12:00:00 UTC"
    ):
        refuse_older(workspace, "s", older)
    ingested(workspace, None)
    refuse_older(workspace, "s", older)
