"""Catalog, encoders -> feature store (only what is stale)."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.models import newest_encoders
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ExtractFeatures(Job):
    """Send every product whose text or image is new to an encoder through it, and store the vectors."""


def main(config: ExtractFeatures) -> dict[str, Any]:
    """Bring the feature stores of all encoders up to date."""
    workspace = Workspace.open(config.workspace)
    newest_encoders(workspace)

    from mmbatch.pipelines.extract import extract, stale_counts

    if config.dry_run:
        return plan(config, stale=stale_counts(workspace, newest_encoders(workspace)))
    with workspace.writing("extract_features", wait_s=config.wait) as workspace:
        return extract(workspace, newest_encoders(workspace))


if __name__ == "__main__":
    run_job(ExtractFeatures, main)
