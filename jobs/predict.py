"""Feature store, predictor -> predictions."""

from dataclasses import dataclass
from typing import Any, Literal

from jobs._cli import Job, plan, run_job
from mmbatch.models import newest_predictor, open_model
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Predict(Job):
    """Predict every product whose published prediction does not stand any more, and publish in one commit."""

    predictor: str | None = None
    """name@fingerprint of the predictor; default: the one stored last."""
    explain: Literal["needed", "all"] = "needed"
    """Which predictions say what each modality contributes: those for review or of another category than before, or
    all, which takes several times as long."""


def main(config: Predict) -> dict[str, Any]:
    """Predict with one predictor."""
    workspace = Workspace.open(config.workspace)
    model = (
        open_model(workspace, kind="predictor", model_id=config.predictor)
        if config.predictor
        else newest_predictor(workspace)
    )

    from mmbatch.pipelines.predict import outdated, predict

    if config.dry_run:
        return plan(config, predictor=model.id, products=outdated(workspace, model, config.explain).counts)
    with workspace.writing("predict", wait_s=config.wait) as workspace:
        return predict(workspace, model, explain=config.explain)


if __name__ == "__main__":
    run_job(Predict, main)
