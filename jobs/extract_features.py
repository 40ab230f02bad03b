"""Catalog, encoders -> feature store (only what is stale)."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.catalog import Catalog
from mmbatch.models import newest_encoders, sequence_heads
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ExtractFeatures(Job):
    """Send every product whose text or image is new to an encoder through it, and store the vectors.

    Where the head reads sequences, its joined embeddings follow, from encoders and head in one pass.
    """


def main(config: ExtractFeatures) -> dict[str, Any]:
    """Bring the feature stores of all encoders, and of heads over sequences, up to date."""
    workspace = Workspace.open(config.workspace)
    newest_encoders(workspace)

    from mmbatch.pipelines.extract import extract, stale_counts
    from mmbatch.pipelines.extract_joined import extract_joined, stale_joined

    if config.dry_run:
        encoders = newest_encoders(workspace)
        heads = {head.id: stale_joined(workspace, head) for head in sequence_heads(workspace, encoders)}
        return plan(config, stale=stale_counts(Catalog(workspace=workspace).pinned(), encoders) | heads)
    with workspace.writing("extract_features", wait_s=config.wait) as workspace:
        encoders = newest_encoders(workspace)
        done = extract(workspace, encoders)
        joined = [extract_joined(workspace, head) for head in sequence_heads(workspace, encoders)]
        return done | ({"joined": joined} if joined else {})


if __name__ == "__main__":
    run_job(ExtractFeatures, main)
