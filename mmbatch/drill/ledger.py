"""Whether the run ledger's counts tie out, run by run.

A run that is killed after its last commit to a table and before its entry leaves none: the ledger names finished runs.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mmbatch import schema
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
    table = workspace.table("runs", schema=pa.schema([*schema.RUNS, ("bucket", pa.int32())]))
    rows = table.read(["run_id", "job", "started", "counts"]).sort_by("started").to_pylist()
    runs = [(row["run_id"], row["job"], json.loads(row["counts"])) for row in rows]
    faults = [f"{run_id} is {count} times in the ledger" for run_id, count in _repeated(rows)]
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
