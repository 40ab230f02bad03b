"""Predictions, labels -> metrics, confusion matrix, tables, report."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.models import newest_predictor
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Evaluate(Job):
    """Score the published predictions on train, fusion and test rows, and write the report."""


def main(config: Evaluate) -> dict[str, Any]:
    """Evaluate what is published."""
    workspace = Workspace.open(config.workspace)
    predictor = newest_predictor(workspace)
    if config.dry_run:
        return plan(config, predictor=predictor.id)

    from mmbatch.pipelines.evaluate import evaluate

    with workspace.writing("evaluate", wait_s=config.wait) as workspace:
        return evaluate(workspace, predictor)


if __name__ == "__main__":
    run_job(Evaluate, main)
