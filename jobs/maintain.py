"""Workspace -> the same rows in fewer files, without what nothing refers to any more."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.errors import InputError
from mmbatch.tables import LOG_DAYS
from mmbatch.workspace import Workspace

SHORTEST = timedelta(hours=1)
"""Readers, and a run that was taken for dead, may still hold files that are younger."""


@dataclass(frozen=True, kw_only=True)
class Maintain(Job):
    """Join small files, drop vectors and images without a product, and delete files that nobody can need any more."""

    keep_days: float = 7.0
    """Days for which old versions of every table stay readable, from 1/24 (an hour) to 30."""


def main(config: Maintain) -> dict[str, Any]:
    """Maintain one workspace."""
    workspace, keep = Workspace.open(config.workspace), _window(config.keep_days)

    from mmbatch.pipelines.maintain import maintain, nothing_to_do, plan_maintenance

    found = plan_maintenance(workspace, keep=keep)
    if config.dry_run:
        return plan(config, **found.summary())
    if found.nothing:
        return nothing_to_do()
    with workspace.writing("maintain", wait_s=config.wait) as workspace:
        return maintain(workspace, keep=keep)


def _window(days: float) -> timedelta:
    if not SHORTEST / timedelta(days=1) <= days <= LOG_DAYS:
        raise InputError(f"--keep-days {days:g}: expected 1/24 (0.0417, one hour) to {LOG_DAYS}")
    return timedelta(days=days)


if __name__ == "__main__":
    run_job(Maintain, main)
