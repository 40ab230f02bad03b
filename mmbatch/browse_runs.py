"""Browsing the ledger: runs, the nights among them, and the pages that they wrote."""

import json
from collections.abc import Mapping
from typing import Any

from mmbatch.errors import InputError
from mmbatch.runs import runs_table
from mmbatch.storage import filesystem_of
from mmbatch.workspace import Workspace


def ledger(workspace: Workspace) -> list[dict[str, Any]]:
    """All finished runs, the newest first: `run_id`, `job`, `started`, `seconds`, and what is JSON there as values."""
    rows = runs_table(workspace).read().sort_by([("started", "descending")])
    parsed = ("settings", "counts", "versions")
    return [row | {name: json.loads(row[name]) for name in parsed} for row in rows.to_pylist()]


def pages(workspace: Workspace, run_id: str) -> list[str]:
    """Names of the HTML pages in a run's folder of reports."""
    filesystem, root = filesystem_of(workspace.path("reports", run_id))
    return sorted(path.rpartition("/")[2] for path in filesystem.glob(f"{root}/*.html"))


def page(workspace: Workspace, run_id: str, name: str) -> str:
    """One of `pages`; `InputError` for anything else."""
    if name not in pages(workspace, run_id):
        raise InputError(f"{workspace.path('reports', run_id)}: no page {name!r} there")
    filesystem, path = filesystem_of(workspace.path("reports", run_id, name))
    return bytes(filesystem.cat_file(path)).decode()


def outcomes(counts: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a run's counts, and those one level below, by their names."""
    found: dict[str, float] = {}
    for name, value in counts.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": number for key, number in value.items() if _is_number(number)}
        elif _is_number(value):
            found[name] = value
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
