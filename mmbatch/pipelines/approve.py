"""Approval: what the gate has refused is published as it was staged, after a person has looked at it."""

from dataclasses import replace
from typing import Any

import pyarrow as pa

from mmbatch.changes import Changes
from mmbatch.errors import InputError
from mmbatch.pipelines.cluster import remove_folder
from mmbatch.pipelines.metrics import night_done
from mmbatch.pipelines.night_report import JOB, write_reports
from mmbatch.pipelines.publish import publish, require_files, settle
from mmbatch.predictions import Predictions, Publication
from mmbatch.progress import say
from mmbatch.runs import Run, finished_runs
from mmbatch.tables import FileEntry, Table
from mmbatch.workspace import Workspace


def approve(workspace: Workspace, run_id: str) -> dict[str, Any]:
    """Publish what a refused night has staged, in one commit.

    Returns:
        Ledger entry of the approval; the earlier one where the night was approved before.

    Raises:
        InputError: no such night waits: it is unknown, something was published since, or its files are deleted.
    """
    settle(workspace)
    predictions = Predictions(workspace=workspace)
    nights = finished_runs(workspace, JOB)
    done = next((entry for entry in nights if entry["settings"].get("approve") == run_id), None)
    if done is not None:
        say(f"approve    {run_id} was published by {done['run_id']}")
        return {name: done[name] for name in ("run_id", "job", "counts")} | {"seconds": 0.0}
    found = predictions.aside(run_id) if predictions.waits(run_id) else None
    if found is None:
        waiting = [waiting for waiting in predictions.runs_aside() if predictions.waits(waiting)]
        raise InputError(
            f"--approve {run_id}: no staged night of that name waits; waiting: {', '.join(waiting) or 'none'}"
            " (a night waits until something else is published)"
        )
    require_files(predictions.table, found.added)
    require_files(Changes(workspace=workspace).table, found.changes)
    entry = publish(workspace, _approved(workspace, found))
    remove_folder(predictions.staged(run_id).uri)
    write_reports(workspace)
    night_done(entry["counts"]["state"], seconds=entry["seconds"])
    return entry


def _approved(workspace: Workspace, refused: Publication) -> Publication:
    """The publication with a ledger entry of its own, which the changes name: they are published now, not then."""
    night = next(entry for entry in finished_runs(workspace, JOB) if entry["run_id"] == refused.run_id)
    run = Run(workspace=workspace, job=JOB, settings=night["settings"] | {"approve": refused.run_id})
    counts = night["counts"] | {"state": "approved"}
    versions = night["versions"] | {"predictions": counts["published"]["version"]}
    changes = tuple(_renamed(Changes(workspace=workspace).table, file, run.run_id) for file in refused.changes)
    return replace(refused, entry=run.entry(counts, versions), changes=changes, refused=False)


def _renamed(table: Table, file: FileEntry, run_id: str) -> FileEntry:
    rows = table.read_files([file])
    place = rows.schema.get_field_index("run_id")
    rows = rows.set_column(place, "run_id", pa.repeat(run_id, rows.num_rows))
    return table.write_file(rows, bucket=file.bucket)
