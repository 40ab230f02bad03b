"""Predictions as they were -> published again, in one commit."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Rollback(Job):
    """Publish again what was published before the last publication, and say what that changes."""

    to: str | None = None
    """Run whose publication is restored; default: the one before the last. `jobs.rollback --dry-run` names it."""


def main(config: Rollback) -> dict[str, Any]:
    """Restore one publication."""
    workspace = Workspace.open(config.workspace)

    from mmbatch.pipelines.rollback import rollback, target_of

    if config.dry_run:
        return plan(config, **target_of(workspace, config.to)._asdict())
    with workspace.writing("rollback", wait_s=config.wait) as workspace:
        return rollback(workspace, config.to)


if __name__ == "__main__":
    run_job(Rollback, main)
