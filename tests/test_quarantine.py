from pathlib import Path

import pyarrow as pa

from mmbatch import schema
from mmbatch.quarantine import entries_for, quarantine_table, write_new
from mmbatch.sources import REJECTS
from mmbatch.workspace import Settings, Workspace


def rejects(*rows: tuple[int, str | None, str]) -> pa.Table:
    full = [
        {"position": at, "product_id": key, "reason": why, "message": "m", "modality": None} for at, key, why in rows
    ]
    return pa.Table.from_pylist(full, schema=REJECTS)


def test_a_row_is_kept_once_whatever_run_brings_it(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=1))
    table = quarantine_table(workspace)
    for run, expected in (("run1", 2), ("run2", 2)):
        rows = entries_for(
            rejects((0, None, "no_id"), (5, "a", "no_content")), stage="ingest", source="f", run_id=run, buckets=1
        )
        assert rows.schema.equals(schema.QUARANTINE)
        table.commit(write_new(table, rows, bucket=0), app_id=run)
        assert table.rows() == expected
    other = entries_for(rejects((1, None, "no_id")), stage="ingest", source="f", run_id="run3", buckets=1)
    table.commit(write_new(table, other, bucket=0), app_id="run3")
    assert table.rows() == 3


def test_rows_without_an_id_spread_over_the_buckets() -> None:
    many = rejects(*((i, None, "no_id") for i in range(1_000)))
    rows = entries_for(many, stage="ingest", source="f", run_id="r", buckets=4)
    assert set(rows["bucket"].to_pylist()) == {0, 1, 2, 3}
