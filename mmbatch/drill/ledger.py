"""Whether the run ledger's counts tie out, run by run.

An ingest or extraction that is killed between its last commit and its entry leaves none; a publication always has one.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmbatch.predictions import Predictions
from mmbatch.runs import runs_table
from mmbatch.workspace import Workspace

OUTCOMES = {
    "ingest": ("rows", ("new", "edited", "unchanged", "rejected")),
    "extract_features": ("products", ("unchanged", "computed", "reused", "quarantined")),
    "predict": ("products", ("unchanged", "predicted", "unpredictable")),
}
"""Job -> the count of what went in, and the outcomes that it must be the sum of; for each encoder where there are
several."""


def ledger_faults(workspace: Workspace) -> list[str]:
    """One line for every entry of the ledger that does not tie out; empty when all do."""
    rows = runs_table(workspace).read(["run_id", "job", "started", "counts"]).sort_by("started").to_pylist()
    runs = [(row["run_id"], row["job"], json.loads(row["counts"])) for row in rows]
    faults = [f"{run_id} is {count} times in the ledger" for run_id, count in _repeated(rows)]
    published = Predictions(workspace=workspace).table.read(["run_id"])["run_id"].unique().to_pylist()
    known = {row["run_id"] for row in rows}
    faults += [f"{run} has published and is not in the ledger" for run in sorted(set(published) - known)]
    for run_id, job, counts in runs:
        faults += [f"{job} {run_id}: {fault}" for fault in _untied(job, counts)]
    return faults


def _repeated(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(run_id, count) for run_id, count in Counter(row["run_id"] for row in rows).items() if count > 1]


def _untied(job: str, counts: Mapping[str, Any]) -> list[str]:
    if job not in OUTCOMES:
        return []
    whole, parts = OUTCOMES[job]
    faults = []
    for name, part in counts.get("encoders", {"": counts}).items():
        found = {outcome: part[outcome] for outcome in parts}
        if part[whole] != sum(found.values()):
            faults.append(f"{name} {part[whole]} {whole}, but {found}".strip())
    return faults
