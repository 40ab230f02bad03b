"""A workspace with made predictions, changes and ledger entries, without a job having run."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmbatch import schema
from mmbatch.runs import Run, record
from mmbatch.tables import Table
from mmbatch.workspace import Settings, Workspace

BUCKETS = 4
START = datetime(2026, 1, 31, 2, tzinfo=UTC)


def new_workspace(folder: Path | str) -> Workspace:
    return Workspace.create(f"{folder}/w", Settings(preset="sample", level=1, seed=0, buckets=BUCKETS))


def prediction(product: str, **fields: Any) -> dict[str, Any]:
    """A published prediction with something in every column."""
    row: dict[str, Any] = {
        "product_id": product,
        "label": ["Home", "Lamps"],
        "category": "Home > Lamps",
        "confidence": 0.75,
        "top_categories": ["Home > Lamps", "Home"],
        "top_probabilities": [0.75, 0.25],
        "model_categories": [("text", "Home > Lamps"), ("image", "Home")],
        "model_probabilities": [("text", 0.5), ("image", 0.25)],
        "decision": "accepted",
        "decided_category": "Home > Lamps",
        "modality_text": 1.5,
        "modality_image": -0.5,
        "modality_fused": 0.0,
        "predictor": "predictor@0123",
        "text_hash": "aa",
        "title_hash": -(2**62) - 1,
        "description_hash": 2**62 + 1,
        "image_hash": None,
        "quarantined": ["image"],
        "run_id": "one",
    }
    return row | fields


def change(product: str, before: str | None, after: str | None, run_id: str, **fields: Any) -> dict[str, Any]:
    """A change whose decision is that of its category; without a reason, None means no prediction."""
    row: dict[str, Any] = {
        "product_id": product,
        "category_before": before,
        "category_after": after,
        "decided_before": before,
        "decided_after": after,
        "confidence_before": None if before is None else 0.5,
        "confidence_after": None if after is None else 0.25,
        "reason": "new" if before is None else "removed" if after is None else "title",
        "differing": [],
        "run_id": run_id,
    }
    return row | fields


def commit(table: Table, rows: Sequence[dict[str, Any]], app_id: str) -> None:
    buckets = schema.bucket_of([row["product_id"] for row in rows], BUCKETS).tolist()
    stored = [row | {"bucket": bucket} for row, bucket in zip(rows, buckets, strict=True)]
    table.commit(table.write_buckets(pa.Table.from_pylist(stored, schema=table.schema)), app_id=app_id)


def publish(workspace: Workspace, *rows: dict[str, Any], app_id: str = "one") -> Table:
    table = workspace.table("predictions", schema=schema.PREDICTIONS)
    commit(table, rows, app_id)
    return table


def add_changes(workspace: Workspace, *rows: dict[str, Any]) -> Table:
    table = workspace.table("changes", schema=schema.CHANGES)
    commit(table, rows, "+".join(dict.fromkeys(row["run_id"] for row in rows)))
    return table


def add_run(workspace: Workspace, run_id: str, *, minute: float, seconds: float = 6.0, job: str = "nightly") -> None:
    """A run that began so many minutes after `START`."""
    run = Run(workspace=workspace, job=job, run_id=run_id, started=START + timedelta(minutes=minute))
    record(workspace, run.entry({}) | {"seconds": seconds})
