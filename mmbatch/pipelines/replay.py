"""Replay: rows in quarantine are read again, and what is good now enters the catalog."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.models import newest_encoders
from mmbatch.pipelines.cluster import remove_folder, start_ray
from mmbatch.pipelines.extract import extract
from mmbatch.pipelines.ingest import assign_splits
from mmbatch.pipelines.intake import Intake, Reading
from mmbatch.progress import say
from mmbatch.quarantine import Scope
from mmbatch.quarantine_view import Selection, select
from mmbatch.runs import Run, finished_runs
from mmbatch.sources import Unit, plan_units
from mmbatch.storage import filesystem_of
from mmbatch.workspace import Workspace


def replay(workspace: Workspace, selection: Selection) -> dict[str, Any]:
    """Try again what is in quarantine.

    Rows of raw files are read again where they stand, as the last ingest of their source read them, and merged into
    the catalog like an ingest. Contents that could not be encoded are tried again with the newest encoders; as these
    are stale like any other, so is everything else that is stale.

    Returns:
        Ledger entries by stage, of the stages that had entries; the ingest's counts tie out: rows = accepted +
        still_rejected. `InputError` when a source is gone or its rows have moved.
    """
    entries = select(workspace, selection)
    rows = entries.filter(pc.equal(entries["stage"], "ingest"))
    done: dict[str, Any] = {}
    if rows.num_rows:
        done["ingest"] = _read_again(workspace, rows, selection)
    if rows.num_rows < entries.num_rows:
        done["extract"] = extract(workspace, newest_encoders(workspace))
    if not done:
        say("replay     no entry matches, nothing to do")
    return done


def _read_again(workspace: Workspace, entries: pa.Table, selection: Selection) -> dict[str, Any]:
    run = Run(workspace=workspace, job="quarantine", settings=asdict(selection))
    catalog, scope = Catalog(workspace=workspace), Scope(rows=entries)
    parts = _plan(workspace, scope, sorted(set(entries["source"].to_pylist())))
    start_ray(workspace)
    intake = Intake(catalog=catalog, scope=scope, staging=workspace.path("tmp", run.run_id), run_id=run.run_id)
    staged: Counter[str] = Counter()
    try:
        for reading, units in parts:
            staged.update(intake.stage(units, reading))
        written = intake.merge(staged)
    finally:
        remove_folder(intake.staging)
    written.commit()
    counts = written.counts
    still, rows = counts.pop("flawed"), counts["rows"]
    counts |= {"entries": entries.num_rows, "accepted": rows - still, "still_rejected": still}
    counts["labelled_products_split"] = assign_splits(catalog)
    say(f"replay     {rows:,} rows read again: {rows - still:,} accepted, {still:,} still rejected")
    return run.finish(counts, {"catalog": catalog.table.version()})


def _plan(workspace: Workspace, scope: Scope, files: Sequence[str]) -> list[tuple[Reading, list[Unit]]]:
    """The parts of files that hold rows to read again, by how their sources were read."""
    _check_there(files)
    runs = finished_runs(workspace, "ingest")
    by_reading: dict[Reading, list[str]] = defaultdict(list)
    for file in files:
        by_reading[_last_reading(file, runs)].append(file)
    index, plans = 0, []
    for reading, some in by_reading.items():
        units = _with_rows(plan_units(some, reading.columns), scope)
        plans.append((reading, [replace(unit, index=index + place) for place, unit in enumerate(units)]))
        index += len(units)
    return plans


def _check_there(files: Sequence[str]) -> None:
    gone = [file for file in files if not _exists(file)]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise InputError(f"{gone[0]}{more}: rows in quarantine came from it and it is not there; nothing was replayed")


def _exists(file: str) -> bool:
    filesystem, path = filesystem_of(file)
    return bool(filesystem.exists(path))


def _last_reading(file: str, runs: Sequence[Mapping[str, Any]]) -> Reading:
    """How the last ingest of the source that a file belongs to read it."""
    for run in runs:
        source = run["settings"]["source"]
        if file == source or file.startswith(f"{source}/") or fnmatchcase(file, source):
            return Reading.from_settings(run["settings"])
    raise InputError(f"{file}: no finished ingest of it in this workspace's ledger; ingest it instead")


def _with_rows(units: Sequence[Unit], scope: Scope) -> list[Unit]:
    """The units in which rows to read again may stand."""
    found, starts = [], Counter[str]()
    for unit in units:
        if unit.rows is None:
            found.append(unit)
            continue
        start, positions = starts[unit.file], scope.positions(unit.file)
        starts[unit.file] += unit.rows
        within = pc.and_(pc.greater_equal(positions, start), pc.less(positions, start + unit.rows))
        found += [unit] if pc.any(within).as_py() else []
    return found
