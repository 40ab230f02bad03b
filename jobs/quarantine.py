"""What was rejected, and why: lists it, exports it, tries it again."""

from dataclasses import dataclass
from typing import Any, Literal

from jobs._cli import Job, plan, run_job
from mmbatch.file_writers import ending_of
from mmbatch.progress import say
from mmbatch.quarantine_view import Selection, counts, export, newest, select
from mmbatch.workspace import Workspace, normalise_uri

EXAMPLES = 5
"""Entries that a list shows in full."""


@dataclass(frozen=True, kw_only=True)
class Quarantine(Job):
    """List what is in quarantine, write it to a file, or read the rejected rows again and take what is good now."""

    reason: tuple[str, ...] = ()
    """Only entries with these reason codes."""
    source: str | None = None
    """Only entries of this raw file, or of the files in this folder."""
    stage: Literal["ingest", "extract"] | None = None
    """Only entries of this stage."""
    export: str | None = None
    """Write the entries to this file (.csv, .parquet, .jsonl, .csv.gz, .jsonl.gz; local or s3://), list none."""
    replay: bool = False
    """Read the rejected rows again, as they were last ingested, and encode again what could not be encoded."""


def main(config: Quarantine) -> dict[str, Any]:
    """List, export or replay the entries that the flags select."""
    workspace = Workspace.open(config.workspace)
    source = None if config.source is None else normalise_uri(config.source)
    selection = Selection(reasons=config.reason, source=source, stage=config.stage)
    if config.export is not None:
        ending_of(config.export, named=f"--export {config.export}")
    entries = select(workspace, selection)
    found: dict[str, Any] = {"entries": entries.num_rows, "counts": counts(entries)}
    if config.dry_run:
        return plan(config, **found)
    if config.export is not None:
        written = export(workspace, selection, config.export)
        say(f"quarantine {written:,} entries written to {config.export}")
        found |= {"export": config.export, "exported": written}
    if config.replay:
        from mmbatch.pipelines.replay import replay

        with workspace.writing("quarantine", wait_s=config.wait) as workspace:
            return found | {"replay": replay(workspace, selection)}
    if config.export is None:
        found["newest"] = newest(entries, EXAMPLES)
        if not config.json:
            print("\n".join(_lines(found)))
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['entries']:,} entries in quarantine"]
    if not found["entries"]:
        return lines
    heads = ("stage", "reason", "modality", "entries")
    rows = [heads, *([str(row[head] or "whole row") for head in heads] for row in found["counts"])]
    widths = [max(len(row[at]) for row in rows) for at in range(len(heads))]
    lines += ["", *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)]
    lines += ["", "newest"]
    for row in found["newest"]:
        where = row["source"] if row["position"] is None else f"{row['source']} row {row['position']}"
        lines.append(f"  {row['product_id'] or '(no id)'}  {row['reason']}: {row['message']}  [{where}]")
    return lines


if __name__ == "__main__":
    run_job(Quarantine, main)
