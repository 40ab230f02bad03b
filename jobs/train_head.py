"""Feature store, labels -> fusion head."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from jobs._cli import Job, plan, run_job
from jobs._recipe import changed, kinds_of, workers_of
from mmbatch.models import newest_encoders
from mmbatch.presets import preset_named
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class TrainHead(Job):
    """Train fusion heads, which join the encoders' embeddings, on the train rows' stored features; keep the best."""

    heads: str | None = None
    """Kinds to try, such as addition,concatenation,cross-attention: the one with the best macro-F1 on the fusion rows
    is kept, and how far the others are behind is said. Default: the preset's."""
    training: tuple[str, ...] = ()
    """Fields of the recipe to change, such as epochs=5 blocks=6 attention_heads=4 level_weights=1,1.2,1.3. With
    sequences=True cross-attention reads token states and patches in place of vectors: jobs.extract_features follows."""
    workers: str | None = None
    """Training processes on Ray Train: a number, or FEWEST:MOST. Default: one process, without Ray Train, for up to
    200,000 train rows; for more, one per GPU, or one where there is none."""


def main(config: TrainHead) -> dict[str, Any]:
    """Train the heads of the workspace's preset."""
    workspace = Workspace.open(config.workspace)
    encoders = newest_encoders(workspace)
    recipe = preset_named(workspace.settings.preset).head
    recipe = changed(replace(recipe, kinds=kinds_of(config.heads) or recipe.kinds), config.training)
    workers = workers_of(config.workers)
    if config.dry_run:
        return plan(config, encoders=[model.id for model in encoders], recipe=asdict(recipe))

    from mmbatch.pipelines.train_head import train_head

    with workspace.writing("train_head", wait_s=config.wait) as workspace:
        head = train_head(workspace, encoders, recipe=recipe, workers=workers)
    if head is None:
        return {"head": None, "metrics": None}
    return {"head": head.id, "metrics": head.card["metrics"], "standings": head.card["standings"]}


if __name__ == "__main__":
    run_job(TrainHead, main)
