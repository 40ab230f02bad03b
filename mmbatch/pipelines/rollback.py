"""Rollback: an earlier version of `predictions` -> published again in one commit, and `changes` says what that changed.

The files of the version are put back as they are, so that readers see exactly what they saw then.
"""

from typing import Any, NamedTuple

from mmbatch.errors import InputError
from mmbatch.pipelines.cluster import start_ray
from mmbatch.pipelines.publish import described, publish, restored, settle
from mmbatch.predictions import Predictions
from mmbatch.progress import say
from mmbatch.runs import Run, publications
from mmbatch.tables import Snapshot
from mmbatch.workspace import Workspace

JOB = "rollback"


class Target(NamedTuple):
    """What a rollback restores."""

    version: int
    """Of `predictions`."""
    run_id: str | None
    """Run that published it; None: it is older than the ledger."""
    predictor: str
    """Identity of what decided."""
    taken_back: str
    """Newest run of those whose publications it takes back."""


def target_of(workspace: Workspace, run_id: str | None = None) -> Target:
    """What a rollback would restore: what was published before the last publication, or what a named run published.

    Raises:
        InputError: nothing was published before, the last publication is a rollback and no run is named, or the
            named run published nothing or what is published now.
    """
    found = publications(workspace)
    if not found:
        raise InputError(f"--workspace {workspace.uri}: nothing was published yet: there is nothing to roll back")
    names = ", ".join(f"{entry['run_id']} ({entry['job']})" for entry in found[:5])
    last = found[0]
    if run_id is None:
        if last["job"] == JOB:
            raise InputError(
                f"the last publication, {last['run_id']}, is a rollback itself: name a run by --to: {names}"
            )
        version = last["counts"]["published"]["before"]
        earlier = next((entry for entry in found[1:] if _version(entry) <= version), None)
        if version <= 0 or earlier is None:
            raise InputError(f"{last['run_id']} was the first to publish: there is nothing to go back to")
        return Target(version, earlier["run_id"], earlier["settings"]["predictor"], last["run_id"])
    named = next((entry for entry in found if entry["run_id"] == run_id), None)
    if named is None:
        raise InputError(f"--to {run_id}: this run published nothing; the last that did: {names}")
    if named is last:
        raise InputError(f"--to {run_id}: what it published is what is published now; others: {names}")
    return Target(_version(named), run_id, named["settings"]["predictor"], last["run_id"])


def _version(entry: dict[str, Any]) -> int:
    return int(entry["counts"]["published"]["version"])


def rollback(workspace: Workspace, run_id: str | None = None) -> dict[str, Any]:
    """Publish what `target_of` finds, in one commit.

    Returns:
        Ledger entry: `reasons` and `changes` count what the rollback changes.

    Raises:
        InputError: as `target_of`, or files of that version are deleted already.
    """
    settle(workspace)
    target = target_of(workspace, run_id)
    run = Run(workspace=workspace, job=JOB, settings={"predictor": target.predictor, "to": target.run_id})
    start_ray(workspace)
    new = restored(workspace, target.version, run_id=run.run_id)
    counts = described(workspace, new) | {"taken_back": target.taken_back}
    entry = run.entry(counts, {"predictions": new.version})
    found = publish(workspace, new.publication(entry))
    total = new.tally.counts
    say(
        f"rollback   {target.run_id} is published again: {total['changed']:,} products have another category,"
        f" {total['products_after'] - total['products_before']:+,} products"
    )
    return found


def last_taken_back(workspace: Workspace) -> Snapshot | None:
    """What the last publication took back, where that was a rollback and its files are there still."""
    last = next(iter(publications(workspace)), None)
    if last is None or last["job"] != JOB:
        return None
    return Predictions(workspace=workspace).table.snapshot(int(last["counts"]["published"]["before"]))
