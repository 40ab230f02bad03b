"""Predictor, stored features -> what each model contributes to the predictions of test products."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.models import newest_predictor, published_predictor
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Explain(Job):
    """Say which model and which modality spoke for the predicted categories: SHAP values of test products, in figures.

    What each modality contributed to one product stands in its row of `predictions` (jobs.predict --explain all).
    """


def main(config: Explain) -> dict[str, Any]:
    """Explain what is published."""
    workspace = Workspace.open(config.workspace)
    predictor = published_predictor(workspace) or newest_predictor(workspace)
    if config.dry_run:
        return plan(config, predictor=predictor.id)

    from mmbatch.pipelines.explain import explain

    with workspace.writing("explain", wait_s=config.wait) as workspace:
        return explain(workspace, predictor)


if __name__ == "__main__":
    run_job(Explain, main)
