"""Raw files -> catalog table (+ quarantine)."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import plan, run_job
from jobs._source import SourceJob, check_source, open_or_create
from mmbatch.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Ingest(SourceJob):
    """Bring the products of raw files into the catalog, and what cannot be used into quarantine, with a reason."""


def main(config: Ingest) -> dict[str, Any]:
    """Ingest one source."""
    if config.source is None:
        raise InputError("--source is missing: a file, folder or glob of CSV, TSV, Parquet, JSON Lines or HDF5")
    source = check_source(config, config.source, preset=config.preset, snapshot=config.snapshot)
    if config.dry_run:
        return plan(config, **source._asdict())
    workspace, _ = open_or_create(config, source)

    from mmbatch.pipelines.ingest import ingest

    with workspace.writing("ingest", wait_s=config.wait) as workspace:
        return ingest(
            workspace,
            source=source.uri,
            columns=source.columns,
            access=source.images_from,
            snapshot=config.snapshot,
            allow_removals=config.allow_removals,
            allow_older=config.allow_older,
        )


if __name__ == "__main__":
    run_job(Ingest, main)
