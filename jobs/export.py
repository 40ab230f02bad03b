"""Published predictions, or what changed since a run -> one file for another system."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.export import changed_since, check_out, published
from mmbatch.progress import say
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ExportJob(Job):
    """Write all published predictions, or the net changes since a run, to one file."""

    out: str
    """File to write, local or s3://: .csv, .parquet, .jsonl, .csv.gz or .jsonl.gz; one that is there is replaced when
    the new one is whole."""
    changes_since: str | None = None
    """Only what runs after this one changed: its id as in the ledger, such as the `until` of an earlier export."""
    columns: tuple[str, ...] = ()
    """Columns to write, in this order; default all of docs/predictions.md but `bucket`."""


def main(config: ExportJob) -> dict[str, Any]:
    """Write one export."""
    workspace = Workspace.open(config.workspace)
    check_out(workspace, config.out)
    if config.changes_since is None:
        export = published(workspace, config.columns)
    else:
        export = changed_since(workspace, config.changes_since, config.columns)
    found = {"version": export.snapshot.version, "until": export.until, "columns": export.schema.names}
    if config.dry_run:
        return plan(config, rows=export.stored() if config.changes_since is None else export.rows(), **found)
    written = export.write(config.out)
    say(f"export     {written:,} rows written to {config.out}; what comes after: --changes-since {export.until}")
    return {"out": config.out, "rows": written, **found}


if __name__ == "__main__":
    run_job(ExportJob, main)
