"""Feature store, labels -> fusion head."""

from dataclasses import asdict, dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.models import newest_encoders
from mmbatch.presets import preset_named
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class TrainHead(Job):
    """Train the fusion head, which joins the encoders' embeddings, on the stored features of the train rows."""


def main(config: TrainHead) -> dict[str, Any]:
    """Train the head of the workspace's preset."""
    workspace = Workspace.open(config.workspace)
    encoders, recipe = newest_encoders(workspace), preset_named(workspace.settings.preset).head
    if config.dry_run:
        return plan(config, encoders=[model.id for model in encoders], recipe=asdict(recipe))

    from mmbatch.pipelines.train import train_head

    with workspace.writing("train_head", wait_s=config.wait) as workspace:
        head = train_head(workspace, encoders, recipe=asdict(recipe))
    return {"head": head.id if head else None, "metrics": head.card["metrics"] if head else None}


if __name__ == "__main__":
    run_job(TrainHead, main)
