"""Predictions, labels -> metrics, confusion matrix, tables, report."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.models import newest_predictor, published_predictor
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Evaluate(Job):
    """Score the published predictions on every split, and write the report."""

    paper: bool = False
    """Write the tables and the figure of the paper too: Markdown, CSV and PNG."""


def main(config: Evaluate) -> dict[str, Any]:
    """Evaluate what is published."""
    workspace = Workspace.open(config.workspace)
    predictor = published_predictor(workspace) or newest_predictor(workspace)
    if config.dry_run:
        return plan(config, predictor=predictor.id)

    from mmbatch.pipelines.evaluate import evaluate

    with workspace.writing("evaluate", wait_s=config.wait) as workspace:
        return evaluate(workspace, predictor, paper=config.paper)


if __name__ == "__main__":
    run_job(Evaluate, main)
