"""What the ledger keeps of a night, so that its report can be written from there at any time."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.changes import REASONS, Changes
from mmbatch.gate import Measured, Rule
from mmbatch.pipelines.publish import Candidate
from mmbatch.workspace import Workspace

MOST = 200
"""Moves and categories that are kept."""

EXAMPLES = 24
"""Changes that a report shows."""


def summary(workspace: Workspace, new: Candidate, measured: Measured, rules: Sequence[Rule]) -> dict[str, Any]:
    """Moves between categories, what the gate measured and said, and some of the changes."""
    tally = new.tally
    return {
        "moves": [[*pair, count] for pair, count in tally.moves.most_common(MOST)],
        "categories": _categories(new),
        "drift": dict(measured.drift or {}),
        "golden": asdict(measured.golden) if measured.golden else None,
        "quarantined_before": measured.quarantined_before,
        "gate": [asdict(rule) for rule in rules],
        "examples": _examples(workspace, new),
    }


def _categories(new: Candidate) -> list[list[Any]]:
    """Category, products before and after, those that came and that went; what changed most comes first."""
    tally = new.tally
    came: dict[str | None, int] = {}
    went: dict[str | None, int] = {}
    for (before, after), count in tally.moves.items():
        went[before] = went.get(before, 0) + count
        came[after] = came.get(after, 0) + count
    names = sorted({*came, *went} - {None}, key=lambda name: (-came.get(name, 0) - went.get(name, 0), name or ""))
    return [
        [name, tally.before[name], tally.after[name], came.get(name, 0), went.get(name, 0)]
        for name in islice(names, MOST)
    ]


def _examples(workspace: Workspace, new: Candidate) -> list[dict[str, Any]]:
    """Changes of every reason, those of a bucket or two: buckets are random parts of the catalog.

    Removed products are left out: there is nothing to show of them.
    """
    table, parts, rows = Changes(workspace=workspace).table, [], 0
    for entry in new.changes:
        parts.append(table.read_files([entry]))
        rows += entry.rows
        if rows >= 50 * EXAMPLES:
            break
    found = pa.concat_tables([table.schema.empty_table(), *parts]).sort_by([("confidence_after", "descending")])
    of_reason = {
        reason: found.filter(pc.equal(found["reason"], reason)).to_pylist() for reason in REASONS if reason != "removed"
    }
    kinds = [rows for rows in of_reason.values() if rows]
    share = -(-EXAMPLES // max(len(kinds), 1))
    return [row for rows in kinds for row in rows[:share]][:EXAMPLES]
