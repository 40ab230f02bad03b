"""Scores of every model on the fusion rows -> late fusion -> predictor."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.models import newest_encoders, newest_head
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class TrainLateFusion(Job):
    """Fit the late fusion, which joins the models' scores, and store the predictor."""


def main(config: TrainLateFusion) -> dict[str, Any]:
    """Fit it on the encoders and the head stored last."""
    workspace = Workspace.open(config.workspace)
    encoders = newest_encoders(workspace)
    ids = [model.id for model in encoders]
    head = newest_head(workspace, encoders)
    if config.dry_run:
        return plan(config, encoders=ids, head=head.id if head else None)

    from mmbatch.pipelines.train_late_fusion import train_late_fusion

    with workspace.writing("train_late_fusion", wait_s=config.wait) as workspace:
        model = train_late_fusion(workspace, encoders, head)
    return {"predictor": model.id, "late_fusion": model.card["late_fusion"]}


if __name__ == "__main__":
    run_job(TrainLateFusion, main)
