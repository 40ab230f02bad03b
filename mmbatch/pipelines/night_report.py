"""Reports of nights, written from the ledger: a night that was killed before its report gets one from the next."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.gate import Rule
from mmbatch.golden import Difference
from mmbatch.predictions import Predictions
from mmbatch.progress import say
from mmbatch.reports.night import (
    PAGE_FILE,
    CategoryCount,
    ChangeExample,
    Move,
    Night,
    NightPoint,
    write_index,
    write_night,
)
from mmbatch.runs import finished_runs, last_run
from mmbatch.storage import filesystem_of
from mmbatch.workspace import Workspace

JOB, ROLLBACK = "nightly", "rollback"

LISTED = 400
"""Nights in the index: a year of them."""

_FIELDS = ("title", "description", "image", "label")
_OUTCOMES = ("products", "unchanged", "computed", "reused", "quarantined")


def page_uri(workspace: Workspace, run_id: str) -> str:
    """Where the report of a night lies."""
    return workspace.path("reports", run_id, PAGE_FILE)


def write_reports(workspace: Workspace) -> None:
    """Write the report of the last night, and the index of all nights, unless they are there."""
    entries = sorted(
        [*finished_runs(workspace, JOB)[:LISTED], *finished_runs(workspace, ROLLBACK)],
        key=lambda entry: entry["started"],
        reverse=True,
    )
    missing = [entry for entry in entries[:2] if not _exists(page_uri(workspace, entry["run_id"]))]
    for entry in missing:
        uri = write_night(workspace.path("reports", entry["run_id"]), _night(workspace, entry))
        say(f"report     {uri}")
    if missing:
        write_index(workspace.path("reports"), [_point(entry) for entry in entries])


def _exists(uri: str) -> bool:
    filesystem, path = filesystem_of(uri)
    return bool(filesystem.exists(path))


def _night(workspace: Workspace, entry: Mapping[str, Any]) -> Night:
    counts, settings = entry["counts"], entry["settings"]
    ingested, extracted = counts.get("ingest", {}), counts.get("extract", {})
    speed, review = extracted.get("speed", {}), last_run(workspace, "review")
    encoded = {name: {key: found[key] for key in _OUTCOMES} for name, found in extracted.get("encoders", {}).items()}
    return Night(
        workspace=workspace.uri,
        run_id=entry["run_id"],
        started=entry["started"],
        seconds=entry["seconds"],
        state=_state(entry),
        source=settings.get("source") or settings.get("approve") or settings["to"],
        predictor=settings["predictor"],
        predictor_before=counts.get("predictor_before"),
        rows={name: count for name, count in ingested.items() if isinstance(count, int)},
        edited={name: ingested.get("edited_fields", {}).get(name, 0) for name in _FIELDS},
        products=counts.get("products", {}),
        encoded=encoded,
        timings=counts.get("timings", {}),
        bound_by=speed.get("bound_by"),
        contents_per_s=speed.get("contents_per_s"),
        reasons=counts.get("reasons", {}),
        moves=[
            Move(before=before, after=after, products=products) for before, after, products in counts.get("moves", [])
        ],
        categories=[_category(*row) for row in counts.get("categories", [])],
        quarantined=_quarantined(counts),
        drift=counts.get("drift", {}),
        golden=Difference(**counts["golden"]) if counts.get("golden") else None,
        gate=[Rule(**rule) for rule in counts.get("gate", [])],
        examples=list(_examples(Catalog(workspace=workspace), counts.get("examples", []))),
        review_products=counts.get("review_after", 0),
        review_page=review["counts"]["page"] if review else None,
        published_total=Predictions(workspace=workspace).table.rows(),
        changes_total=counts.get("changes", 0),
        trial=counts.get("trial"),
    )


def _state(entry: Mapping[str, Any]) -> Any:
    return "rolled back" if entry["job"] == ROLLBACK else entry["counts"]["state"]


def _category(category: str, before: int, after: int, entered: int, left: int) -> CategoryCount:
    return CategoryCount(category=category, before=before, after=after, entered=entered, left=left)


def _quarantined(counts: Mapping[str, Any]) -> dict[str, tuple[int | None, int]]:
    now, before = counts.get("quarantined", {}), counts.get("quarantined_before")
    reasons = sorted({*now, *(before or {})})
    return {reason: (None if before is None else before.get(reason, 0), now.get(reason, 0)) for reason in reasons}


def _examples(catalog: Catalog, rows: Sequence[Mapping[str, Any]]) -> Iterator[ChangeExample]:
    for row in rows:
        title, image = _content(catalog, row["product_id"], row["bucket"])
        yield ChangeExample(
            product_id=row["product_id"],
            title=title,
            image=image,
            before=row["category_before"],
            after=row["category_after"],
            confidence_before=row["confidence_before"],
            confidence_after=row["confidence_after"],
            reason=row["reason"],
        )


def _content(catalog: Catalog, product_id: str, bucket: int) -> tuple[str | None, bytes | None]:
    """Title and image file of a product; None of one that the catalog has lost, or that cannot be read any more."""
    wanted = pc.field("product_id") == product_id
    found = catalog.table.read(["title", "image_hash"], buckets=[bucket], filters=wanted).to_pylist()
    if not found:
        return None, None
    if found[0]["image_hash"] is None:
        return found[0]["title"], None
    image: bytes | None = catalog.content("image", bucket, pa.array([found[0]["image_hash"]]))["image"][0].as_py()
    return found[0]["title"], image


def _point(entry: Mapping[str, Any]) -> NightPoint:
    counts = entry["counts"]
    products = counts.get("products_after") or counts.get("products", {}).get("products", 0)
    return NightPoint(
        run_id=entry["run_id"],
        started=entry["started"],
        state=_state(entry),
        products=products,
        changed=counts.get("changed", 0),
        review_share=counts.get("review_after", 0) / max(products, 1),
        quarantined=sum(counts.get("quarantined", {}).values()),
        computed=counts.get("extract", {}).get("computed", 0),
        seconds=entry["seconds"],
        breached=[rule["name"] for rule in counts.get("gate", []) if rule["passed"] is False],
        report=f"{entry['run_id']}/{PAGE_FILE}",
    )
