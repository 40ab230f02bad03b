"""Raw files -> catalog table (+ quarantine)."""

from dataclasses import dataclass
from typing import Any

from mmbatch.sources import estimate_rows, list_files, plan_units

from jobs._cli import plan, run_job
from jobs._source import SourceJob, columns_of, open_or_create
from mmbatch.errors import InputError
from mmbatch.presets import preset_named


@dataclass(frozen=True, kw_only=True)
class Ingest(SourceJob):
    """Bring the products of raw files into the catalog, and what cannot be used into quarantine, with a reason."""


def main(config: Ingest) -> dict[str, Any]:
    """Ingest one source."""
    if config.source is None:
        raise InputError("--source is missing: a file, folder or glob of CSV, TSV, Parquet or JSON Lines")
    files = list_files(config.source)
    columns = columns_of(config, preset_named(config.preset or "sample")) if config.columns else None
    if columns:
        plan_units(files, columns)  # a misspelt column must not leave an empty workspace behind
    if config.dry_run:
        return plan(config, files=len(files), rows_estimated=estimate_rows(files))
    workspace, preset = open_or_create(config, files)

    from mmbatch.pipelines.ingest import ingest

    return ingest(workspace, source=config.source, columns=columns or columns_of(config, preset))


if __name__ == "__main__":
    run_job(Ingest, main)
