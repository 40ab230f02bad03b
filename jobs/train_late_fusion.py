"""Scores of every model on the fusion rows -> late fusion -> predictor."""

from dataclasses import asdict, dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from jobs._recipe import changed, workers_of
from mmbatch.errors import InputError
from mmbatch.models import newest_encoders, newest_head
from mmbatch.presets import preset_named
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class TrainLateFusion(Job):
    """Fit the late fusion, which joins the models' scores, calibrate it, and store the predictor."""

    training: tuple[str, ...] = ()
    """Fields of the recipe to change, such as objective=multiclass num_leaves=22 min_child_samples=125."""
    search: int = 0
    """Recipes to try, the preset's first, each scored by cross-validation on the fusion rows; the best is kept."""
    precision: float | None = None
    """Share of right ones that accepted predictions are to reach, proven on the calibration rows with 95 % confidence;
    what does not reach it backs off to an inner node of the category tree, or goes to review. Default: the preset's."""
    per_class: bool = False
    """Give categories with enough calibration rows thresholds of their own."""
    workers: str | None = None
    """Processes that boost, on Ray Train: a number, or FEWEST:MOST; only where there are more fusion rows than fit.
    Default: one, without Ray Train."""


def main(config: TrainLateFusion) -> dict[str, Any]:
    """Fit it on the encoders and the head stored last."""
    workspace = Workspace.open(config.workspace)
    encoders = newest_encoders(workspace)
    ids = [model.id for model in encoders]
    head = newest_head(workspace, encoders)
    preset = preset_named(workspace.settings.preset)
    recipe = changed(preset.late_fusion, config.training)
    precision = preset.precision if config.precision is None else config.precision
    workers = workers_of(config.workers)
    if config.search < 0:
        raise InputError(f"--search {config.search}: expected 0 or more")
    if config.dry_run:
        return plan(config, encoders=ids, head=head.id if head else None, recipe=asdict(recipe), precision=precision)

    from mmbatch.pipelines.train_late_fusion import Goal, train_late_fusion

    goal = Goal(precision=precision, per_class=config.per_class)
    with workspace.writing("train_late_fusion", wait_s=config.wait) as workspace:
        model = train_late_fusion(
            workspace, encoders, head, recipe=recipe, goal=goal, search=config.search, workers=workers
        )
    return {"predictor": model.id} | {name: model.card[name] for name in ("late_fusion", "calibration", "decisions")}


if __name__ == "__main__":
    run_job(TrainLateFusion, main)
