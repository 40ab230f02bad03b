"""Predictions, labels -> the queue of products that people should look at first."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.models import newest_predictor, published_predictor
from mmbatch.predictions import Predictions
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Review(Job):
    """List products whose label is probably wrong, whose text and image disagree, or that no category is sure for."""

    limit: int = 1_000
    """Most products on the page, the most urgent of each reason; the CSV file has all."""
    export: str | None = None
    """Copy the CSV file to this one (.csv; local or s3://)."""


def main(config: Review) -> dict[str, Any]:
    """Write the review queue of what is published."""
    workspace = Workspace.open(config.workspace)
    predictor = published_predictor(workspace) or newest_predictor(workspace)
    if config.dry_run:
        return plan(config, predictor=predictor.id, products=Predictions(workspace=workspace).table.rows())

    from mmbatch.pipelines.review import review

    with workspace.writing("review", wait_s=config.wait) as workspace:
        return review(workspace, predictor, limit=config.limit, export=config.export)


if __name__ == "__main__":
    run_job(Review, main)
